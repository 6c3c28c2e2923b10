"""`llmrun chat`: a conversation, at a terminal or line by line through a pipe."""
