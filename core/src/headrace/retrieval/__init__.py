"""The vectors of queries, which search needs in addition to the store."""
