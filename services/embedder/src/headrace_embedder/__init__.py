"""Headrace embedder."""
