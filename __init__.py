"""llmrun: run a local language model with the best engine this machine has for it, and say why."""

__version__ = "0.1.0"
