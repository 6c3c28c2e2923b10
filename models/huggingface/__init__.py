"""Reading Hugging Face folders and safetensors headers, without any engine."""
