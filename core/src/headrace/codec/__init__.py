"""Bytes and values: Avro schemas, the Confluent wire format, and what other systems send as text."""
