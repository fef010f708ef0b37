"""Capturing tables: whether a database can be captured, and the connector that does it."""
