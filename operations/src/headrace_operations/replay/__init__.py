"""Replays: reading a stage's source again, beside the live stream (ADR 8 and 9)."""
