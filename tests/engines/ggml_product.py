"""One matrix product or one attention by the installed llama.cpp library, with weights in any of its buffer types.

Nothing of llama.cpp's model code is in between, so shapes and types can be chosen freely.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

__all__ = ["PLAIN", "Library"]

PLAIN = "CPU"
_F32, _F16 = 0, 1
_GRAPH_BYTES = 1 << 20
_Pointer = ctypes.c_void_p


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class Library:
    """The functions of ggml that a product takes."""

    def __init__(self, folder: Path) -> None:
        self._base = ctypes.CDLL(str(folder / "libggml-base.so"))
        self._cpu = ctypes.CDLL(str(folder / "libggml-cpu.so"))
        register = self._function(self._cpu, "ggml_backend_cpu_reg")()
        self._device = self._function(self._base, "ggml_backend_reg_dev_get", _Pointer, ctypes.c_size_t)(register, 0)
        self._backend = self._function(self._cpu, "ggml_backend_cpu_init")()
        self.buffer_types = self._find_buffer_types(register)

    def _function(
        self, library: ctypes.CDLL, name: str, *arguments: Any, returns: Any = _Pointer
    ) -> Callable[..., Any]:
        function: Any = getattr(library, name)
        function.argtypes, function.restype = arguments, returns
        return cast(Callable[..., Any], function)

    def _call(self, name: str, *arguments: Any, returns: Any = _Pointer) -> Any:
        types = [_Pointer if value is None or isinstance(value, bytes) else type(value) for value in arguments]
        kinds = [ctypes.c_void_p if kind is int else kind for kind in types]
        return self._function(self._base, name, *kinds, returns=returns)(*arguments)

    def _find_buffer_types(self, register: int) -> dict[str, int]:
        """Return every buffer type of the processor by its name."""
        address = self._call("ggml_backend_reg_get_proc_address", register, b"ggml_backend_dev_get_extra_bufts")
        listing = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(self._device)
        found = [self._call("ggml_backend_dev_buffer_type", self._device)]
        while listing[len(found) - 1]:
            found.append(listing[len(found) - 1])
        names = [self._call("ggml_backend_buft_name", kind, returns=ctypes.c_char_p).decode() for kind in found]
        return dict(zip(names, found, strict=True))

    def set_threads(self, threads: int) -> None:
        """Compute with so many threads."""
        self._function(self._cpu, "ggml_backend_cpu_set_n_threads", _Pointer, ctypes.c_int, returns=None)(
            self._backend, threads
        )

    def supports(self, buffer_type: str, kind: int, shape: tuple[int, ...], columns: int = 1) -> bool:
        """Return whether the processor multiplies by such weights in such a buffer; `shape` is (…, rows, weights)."""
        context, weights, product = self._graph(kind, shape, (*shape[:-2], columns, shape[-1]))[:3]
        buffer = self._call("ggml_backend_buft_alloc_buffer", self.buffer_types[buffer_type], ctypes.c_size_t(0))
        ctypes.cast(weights + _buffer_offset(), ctypes.POINTER(ctypes.c_void_p))[0] = buffer
        answer = self._call("ggml_backend_dev_supports_op", self._device, product, returns=ctypes.c_bool)
        self._call("ggml_backend_buffer_free", buffer, returns=None)
        self._call("ggml_free", context, returns=None)
        return bool(answer)

    def multiply(self, buffer_type: str, kind: int, weights: bytes, shape: tuple[int, int], activations: Any) -> Any:
        """Return activations (…, columns, weights) times the rows of a matrix, as (…, columns, rows)."""
        context, matrix, product, columns = self._graph(kind, shape, activations.shape)
        buffers = [
            self._place(self.buffer_types[buffer_type], matrix),
            self._place(self.buffer_types[PLAIN], columns),
            self._place(self.buffer_types[PLAIN], product),
        ]
        self._set(matrix, weights)
        self._set(columns, np.ascontiguousarray(activations, dtype=np.float32).tobytes())
        return self._compute(context, product, buffers, (*activations.shape[:-1], shape[0]))

    def attend(self, queries: Any, keys: Any, values: Any, mask: Any, *, bias: float = 0.0, cap: float = 0.0) -> Any:
        """Return attention as (sequences, tokens, heads, length).

        Args:
            queries: (sequences, heads, tokens, length), 32-bit floats.
            keys: (sequences, cells, kv_heads, length), 16-bit floats, as in a cache.
            values: Likewise.
            mask: (sequences, tokens, cells), 16-bit floats that are added to the scores, or None.
            bias: The largest bias by position (ALiBi); 0 for none.
            cap: The cap of the scores; 0 for none.
        """
        context = self._new_context()
        arrays = [queries, keys, values, *([] if mask is None else [mask[:, None]])]
        kinds = (_F32, _F16, _F16, _F16)
        tensors = [self._tensor(context, kind, array.shape) for kind, array in zip(kinds, arrays, strict=False)]
        buffers = [self._place(self.buffer_types[PLAIN], tensor) for tensor in tensors]
        for tensor, array in zip(tensors, arrays, strict=True):
            self._set(tensor, np.ascontiguousarray(array).tobytes())
        permute = self._function(self._base, "ggml_permute", _Pointer, _Pointer, *(ctypes.c_int,) * 4)
        keys_by_head, values_by_head = (permute(context, tensor, 0, 2, 1, 3) for tensor in tensors[1:3])
        attend = self._function(self._base, "ggml_flash_attn_ext", *(_Pointer,) * 5, *(ctypes.c_float,) * 3)
        scale = queries.shape[-1] ** -0.5
        mask_tensor = None if mask is None else tensors[3]
        product = attend(context, tensors[0], keys_by_head, values_by_head, mask_tensor, scale, bias, cap)
        buffers.append(self._place(self.buffer_types[PLAIN], product))
        sequences, heads, tokens, _ = queries.shape
        return self._compute(context, product, buffers, (sequences, tokens, heads, values.shape[-1]))

    def _compute(self, context: int, product: int, buffers: list[int], shape: tuple[int, ...]) -> Any:
        """Run the graph of a result, return it, and free everything."""
        graph = self._call("ggml_new_graph", context)
        self._call("ggml_build_forward_expand", graph, product, returns=None)
        status = self._call("ggml_backend_graph_compute", self._backend, graph, returns=ctypes.c_int)
        assert status == 0
        result: Any = np.empty(shape, dtype=np.float32)
        target = result.ctypes.data_as(ctypes.c_void_p)
        self._function(
            *(self._base, "ggml_backend_tensor_get", _Pointer, _Pointer, ctypes.c_size_t, ctypes.c_size_t), returns=None
        )(product, target, 0, result.nbytes)
        for buffer in buffers:
            self._call("ggml_backend_buffer_free", buffer, returns=None)
        self._call("ggml_free", context, returns=None)
        return result

    def _new_context(self) -> int:
        init = self._function(self._base, "ggml_init", _InitParams)
        return int(init(_InitParams(mem_size=_GRAPH_BYTES, mem_buffer=None, no_alloc=True)))

    def _graph(self, kind: int, shape: tuple[int, ...], columns: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Return a context, and in it the tensors of weights, product and activations."""
        context = self._new_context()
        matrix = self._tensor(context, kind, shape)
        activations = self._tensor(context, _F32, columns)
        return context, matrix, self._call("ggml_mul_mat", context, matrix, activations), activations

    def _tensor(self, context: int, kind: int, shape: tuple[int, ...]) -> int:
        extents = (ctypes.c_int64 * len(shape))(*reversed(shape))
        make = self._function(self._base, "ggml_new_tensor", _Pointer, ctypes.c_int, ctypes.c_int, _Pointer)
        return int(make(context, kind, len(shape), extents))

    def _place(self, buffer_type: int, tensor: int) -> int:
        size = self._call("ggml_backend_buft_get_alloc_size", buffer_type, tensor, returns=ctypes.c_size_t)
        buffer = self._call("ggml_backend_buft_alloc_buffer", buffer_type, ctypes.c_size_t(size))
        base = self._call("ggml_backend_buffer_get_base", buffer)
        status = self._call("ggml_backend_tensor_alloc", buffer, tensor, base, returns=ctypes.c_int)
        assert status == 0
        return int(buffer)

    def _set(self, tensor: int, data: bytes) -> None:
        self._function(
            *(self._base, "ggml_backend_tensor_set", _Pointer, _Pointer, ctypes.c_size_t, ctypes.c_size_t), returns=None
        )(tensor, data, 0, len(data))


def _buffer_offset() -> int:
    """Return where `buffer` is in struct ggml_tensor: behind an enum, which is padded to the size of a pointer."""
    return ctypes.sizeof(ctypes.c_void_p)
