"""Weights that ship inside Python packages."""
