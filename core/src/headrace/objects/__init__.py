"""The object store: payloads that are too large for a record, and the references that stand for them (ADR 18)."""
