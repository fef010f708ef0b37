"""One module and one SQL file for each revision."""
