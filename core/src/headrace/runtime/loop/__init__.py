"""The decision of the loop, by concern; begin with :mod:`headrace.runtime.loop.decide`."""
