"""A conversation apart from any terminal: its file, its window, its reasoning. Nothing here prints."""
