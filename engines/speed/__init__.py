"""How fast a model will run on a machine, estimated from its header."""
