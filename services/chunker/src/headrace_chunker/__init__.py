"""Headrace chunker."""
