"""Measuring engines: repetitions, their statistics, what disturbed them, and the limits of the machine."""
