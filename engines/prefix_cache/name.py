"""The name of the prefix cache's folder; apart, because every plan has it and few commands read what is in there."""

__all__ = ["FOLDER"]

FOLDER = "prefixes"
"""It is in llmrun's cache."""
