"""Handlers at work: the registry, the chains that templates bind, and the log of pipeline templates."""
