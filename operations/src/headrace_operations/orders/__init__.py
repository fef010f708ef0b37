"""Operators' orders to the stages: pausing and resuming, and the records that a pause set aside."""
