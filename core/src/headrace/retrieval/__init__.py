"""What searching needs besides the store: the vectors of queries."""
