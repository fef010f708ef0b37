"""The flow: its stages, its topics, and the names that belong to one generation of the index."""
