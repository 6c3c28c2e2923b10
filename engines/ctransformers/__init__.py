"""Files from before GGUF, through the library of ctransformers.

engine      the protocol: load a model, hold a session
library     the functions of the native library, called so that they cannot overrun a buffer
vocabulary  text to tokens and back
sampling    how the next token is chosen
room        how many tokens fit into the buffers of the library at once
threads     how many threads compute, beside other programs
"""
