"""Captured tables: checks of the database, the connector, and reconciling."""
