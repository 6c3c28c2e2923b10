"""GGUF models through llama.cpp, on the low-level API of llama-cpp-python."""
