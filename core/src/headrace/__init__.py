"""Headrace core."""
