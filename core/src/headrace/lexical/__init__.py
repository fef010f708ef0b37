"""The lexical leg of search: the terms of a text, and their weights in a passage and in a query."""
