"""Headrace indexer."""
