"""What an embedding is made of and costs: known models, prepared texts, prices and caps."""
