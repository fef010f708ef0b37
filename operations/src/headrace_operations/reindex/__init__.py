"""A new generation of the index from start to end: created, filled, verified, switched to, and the old one dropped."""
