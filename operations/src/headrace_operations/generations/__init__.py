"""Generations of the index: one model's complete set of vectors each."""
