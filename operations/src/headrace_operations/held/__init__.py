"""Held records: list them, release them, and approve or reject reviewed outputs."""
