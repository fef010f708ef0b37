"""Headrace ingest."""
