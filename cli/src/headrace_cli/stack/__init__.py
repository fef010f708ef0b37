"""The local stack and its services."""
