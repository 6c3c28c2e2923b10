"""Which engines are installed, what they support, and whether they work on this machine."""
