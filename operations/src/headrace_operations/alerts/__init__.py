"""Alerts: what is worth one, and sending them."""
