"""The state of long prompts, kept on disk between runs."""
