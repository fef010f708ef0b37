"""Filters of a search: what a document or a chunk must have, as JSON, as text, and as a frozen tree."""
