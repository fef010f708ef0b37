"""Embedding models, prepared texts, prices and caps."""
