"""Choosing, planning, installing and running inference engines; each runs in a child process of its own."""
