"""The object store: its content, and garbage collection."""
