"""The fault suite's parts: brokers to kill, workers to stop, a network to disturb, and checkers of what came of it."""
