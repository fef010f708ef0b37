"""Held records: which there are, and letting them go on or turning them down."""
