"""From a conversation to the text and the control tokens that a model sees."""
