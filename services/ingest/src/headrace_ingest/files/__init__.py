"""Converts files to text: detects a file's kind and writes its text as Markdown, in a confined process."""
