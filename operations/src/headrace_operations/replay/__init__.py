"""Replays: reading a stage's source topic again, beside the live stream (ADR 8 and 9)."""
