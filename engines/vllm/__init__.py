"""Hugging Face folders through vLLM, on GPUs and on processors."""
