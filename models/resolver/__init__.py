"""From what the user typed to files."""
