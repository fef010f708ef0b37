"""Headrace generator."""
