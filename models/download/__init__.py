"""Transfers that resume, are verified, and follow one set of rules."""
