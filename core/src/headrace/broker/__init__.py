"""One contract, two brokers: Kafka, and memory for the logic."""
