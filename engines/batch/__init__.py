"""Many requests from a file: read and checked, answered, and their results appended so that nothing is ever lost."""
