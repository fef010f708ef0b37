"""Operators' orders on the topic `control`, and the records that they hold."""
