"""Reading the formats that came before GGUF, without native code and without trust, and converting them to GGUF."""
