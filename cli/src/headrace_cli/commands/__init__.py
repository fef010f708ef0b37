"""The commands, a module for each group; a command parses, calls an operation and shows what came of it."""
