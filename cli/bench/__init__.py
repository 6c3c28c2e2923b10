"""`llmrun bench`: the command, its progress, its table, and the forms in which results are written."""
