"""How far batches of work are."""
