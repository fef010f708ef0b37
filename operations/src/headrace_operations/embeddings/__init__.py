"""Embedding: costs, progress, records held by a cap, and scheduled jobs."""
