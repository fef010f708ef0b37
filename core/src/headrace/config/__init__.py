"""Configuration of a process: settings, YAML files with line numbers, and failpoints."""
