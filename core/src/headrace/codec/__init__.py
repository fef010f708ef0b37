"""Encoding and decoding: Avro schemas, the Confluent wire format, and text values from other systems."""
