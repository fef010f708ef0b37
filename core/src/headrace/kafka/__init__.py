"""Access to Kafka: the broker contract and its Kafka broker, headers, followers of topics, offsets and lag."""
