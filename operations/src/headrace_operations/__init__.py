"""What operators do to the log and the store, as functions; the command line and the gateway stand on them."""
