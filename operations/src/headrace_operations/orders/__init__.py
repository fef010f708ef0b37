"""Operators' orders: pause and resume, and the records that a pause held."""
