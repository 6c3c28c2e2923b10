"""Which engine runs a model here, why, and why not the others."""
