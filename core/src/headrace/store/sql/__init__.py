"""Files of named, commented queries, read by :mod:`headrace.store.queries`."""
