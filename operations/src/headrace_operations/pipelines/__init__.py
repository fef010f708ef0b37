"""Pipelines: checks templates and publishes them as the next versions."""
