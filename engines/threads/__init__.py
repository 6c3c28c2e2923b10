"""How many threads an engine computes with, followed while it runs."""
