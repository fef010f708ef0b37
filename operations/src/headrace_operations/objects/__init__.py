"""The object store: what it holds, and collecting garbage."""
