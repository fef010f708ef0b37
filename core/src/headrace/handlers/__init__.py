"""The registry of handlers, the handlers of each pipeline version, and the log of pipeline templates."""
