"""The progress of runs."""
