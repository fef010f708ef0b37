"""From files and folders to accepted changes, and until search sees them."""
