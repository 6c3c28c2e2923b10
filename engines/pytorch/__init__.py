"""PyTorch with transformers: the default for models in Hugging Face folders, on whatever device there is.

engine      the protocol: load a model, hold a session
loading     files to a model on a device, with every check that transformers leaves out
slim        a forward pass of our own for decoders of LLaMA's shape
library     the forward pass of transformers, for all others
sampling    how the next token is chosen
decoding    one answer, token by token
many        several answers at once
"""
