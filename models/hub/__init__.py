"""The Hugging Face hub: its cache on this disk, its listings, headers from afar, downloads."""
