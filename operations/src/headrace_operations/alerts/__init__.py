"""Alerts: their conditions, and sending them."""
