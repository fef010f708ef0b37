"""The local stack with its services."""
