"""Avro: schemas, the Confluent wire format, and the codec between bytes and frozen types."""
