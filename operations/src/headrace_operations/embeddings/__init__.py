"""What embedding costs, how far it is, what waits for a cap, and when it runs by itself."""
