"""Test support for Headrace and for packages that add handlers to it."""
