"""The terminal side of `llmrun chat`: the prompt, and answers that are rendered while they come."""
