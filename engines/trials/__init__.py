"""Trials of the engines: for each, a tiny model with random weights, and a child process that may die of it."""
