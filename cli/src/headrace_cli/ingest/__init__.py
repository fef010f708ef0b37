"""Turns files and folders into accepted changes, and waits until search shows them."""
