"""Where a document is: its status, judged from what the store and the log say."""
