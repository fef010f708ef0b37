"""Who may read what: principals, and readers."""
