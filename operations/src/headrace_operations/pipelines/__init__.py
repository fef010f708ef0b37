"""Pipelines: checking templates and publishing them as the next versions."""
