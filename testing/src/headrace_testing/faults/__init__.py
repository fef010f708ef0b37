"""The parts of the fault suite: brokers to kill, workers to stop, a network to disturb, and checkers of the results."""
