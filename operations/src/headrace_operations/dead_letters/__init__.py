"""Dead letters: list, redrive, discard and export them (ADR 9)."""
