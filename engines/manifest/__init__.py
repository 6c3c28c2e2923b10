"""Everything that is needed to repeat one answer, as a file; and what is different when it is repeated."""
