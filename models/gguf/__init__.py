"""Reading GGUF headers, without native code and without trust."""
