"""How much memory each engine takes for a model and a context, estimated before anything is loaded."""
