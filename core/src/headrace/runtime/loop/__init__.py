"""The decision of the loop, by concern; start reading at :mod:`headrace.runtime.loop.decide`."""
