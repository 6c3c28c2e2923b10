// The part of these kernels that llama.cpp's list of CPU buffer types needs.

#pragma once

#include "ggml-backend.h"

// The formats that it takes, as they are told to whoever asks for the features of the CPU library.
#define LLMRUN_FORMATS "Q4_0,Q4_1,Q5_0,Q5_1,Q8_0"

// Return the buffer type that packs the weights put into it, or a null pointer where there are no kernels for the CPU.
ggml_backend_buffer_type_t llmrun_packed_buffer_type(void);
