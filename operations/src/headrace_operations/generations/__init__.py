"""Generations of the index; each is one model's complete set of vectors."""
