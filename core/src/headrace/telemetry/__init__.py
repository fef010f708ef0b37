"""What a process tells: metrics and structured logs."""
