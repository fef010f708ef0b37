"""The object store: payloads that are too large for a record, and the references to them (ADR 18)."""
