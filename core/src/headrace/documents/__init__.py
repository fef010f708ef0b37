"""The status of a document, derived from the store and the log."""
