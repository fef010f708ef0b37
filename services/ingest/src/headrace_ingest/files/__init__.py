"""Files into text: what kind a file is, its text as Markdown, all of it read in a process that can do nothing else."""
