"""Developer tools that run on a checkout: generated reference, frozen schemas, dependencies, containers."""
