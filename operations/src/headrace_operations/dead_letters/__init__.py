"""Dead letters: looking at them, sending them again, discarding and exporting them (ADR 9)."""
