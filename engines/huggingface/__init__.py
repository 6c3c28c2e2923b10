"""What the engines that read Hugging Face folders have in common."""
