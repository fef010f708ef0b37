"""One suite for every broker: what :mod:`headrace.kafka.broker_contract` promises, as tests."""
