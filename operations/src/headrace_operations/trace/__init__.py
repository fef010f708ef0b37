"""The whole path of a document or request."""
