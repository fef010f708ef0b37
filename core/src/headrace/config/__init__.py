"""What a process is told from outside: settings, YAML files with line numbers, failpoints."""
