"""Which blocks of a model keep a KV cache, how many heads each keeps, and which see only a sliding window.

Headers tell part of it. The rest is knowledge about architectures that native engines have in code, kept here as
tables; every row was read out of llama.cpp, src/models/ARCHITECTURE.cpp and llama_model::create_memory in
src/llama-model.cpp, in the version that llama-cpp-python 0.3.36 carries. An architecture that is in no
table keeps full attention in every block, whatever window its header mentions: that is what the engine does.
"""

from dataclasses import dataclass

from llmrun.models.gguf.types import GgufArray, GgufHeader
from llmrun.models.gguf.values import find_array, find_whole, find_whole_or_each

__all__ = ["SlidingWindow", "is_recurrent", "keeps_no_cache", "read_cached_blocks", "read_sliding_window"]

# State of a fixed size in place of a KV cache. Source: llm_arch_is_recurrent (llama-arch.cpp)
_RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})

# Encoders and diffusion models look at all tokens at once. Source: llama_model::create_memory
_NO_CACHE = frozenset(
    {
        "bert",
        "dream",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llada",
        "llada-moe",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "rnd1",
        "wavtokenizer-dec",
    }
)

# Every n-th block has attention, the others are recurrent, unless the header lists them.
# Source: full_attn_interval in qwen3next.cpp, qwen35.cpp, qwen35moe.cpp, qwen4exp.cpp, minimax-01.cpp
_FULL_ATTENTION_INTERVAL = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "qwen4exp": 4, "minimax-01": 8}

# The last blocks reuse the cache of earlier ones. Source: n_layer_kv_from_start in gemma3n.cpp
_CACHED_FROM_START = {"gemma3n": 20}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pattern:
    """Blocks with a window: all but every `period`-th one, which comes first or last of its group.

    `fixed_tokens` is a window that the engine uses whatever the header says, `default_tokens` one that it uses when
    the header says nothing; `period` None: the header must list the blocks; 0: every block.
    """

    period: int | None
    full_first: bool = False
    default_tokens: int | None = None
    fixed_tokens: int | None = None


# Source: load_swa_pattern calls in llama.cpp's src/models/*.cpp, one row for each
_PATTERNS = {
    "afmoe": _Pattern(period=4),
    "cohere2": _Pattern(period=4),
    "cohere2moe": _Pattern(period=4, full_first=True),
    "deepseek4": _Pattern(period=0),
    "dots3note": _Pattern(period=None),
    "exaone-moe": _Pattern(period=4, default_tokens=128),
    "exaone4": _Pattern(period=4, default_tokens=4096),
    "gemma2": _Pattern(period=2, default_tokens=4096),
    "gemma3": _Pattern(period=6),
    "gemma3n": _Pattern(period=5),
    "gemma4": _Pattern(period=None),
    "gpt-oss": _Pattern(period=2),
    "granite_swa": _Pattern(period=None),
    "laguna": _Pattern(period=4, full_first=True),
    "lfm2": _Pattern(period=0),
    "lfm2moe": _Pattern(period=0),
    "llama4": _Pattern(period=4, default_tokens=8192, fixed_tokens=8192),
    "maple": _Pattern(period=None),
    "mellum": _Pattern(period=4),
    "mimo2": _Pattern(period=None),
    "muse-glimmer": _Pattern(period=4),
    "olmo2": _Pattern(period=4),
    "plamo3": _Pattern(period=8),
    "smallthinker": _Pattern(period=4, full_first=True, fixed_tokens=4096),
    "spark2_5": _Pattern(period=None),
    "step35": _Pattern(period=None),
}
# exaone4 has a window only in its 32B size, told by the number of blocks. Source: exaone4.cpp
_EXAONE4_WINDOWED_BLOCKS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidingWindow:
    """The window of attention in tokens, and for each block whether it has it."""

    tokens: int
    blocks: tuple[bool, ...]


def is_recurrent(architecture: str) -> bool:
    """Tell whether an architecture has no attention at all."""
    return architecture in _RECURRENT


def keeps_no_cache(architecture: str) -> bool:
    """Tell whether an architecture runs without any KV cache."""
    return architecture in _RECURRENT or architecture in _NO_CACHE


def read_cached_blocks(header: GgufHeader, architecture: str, blocks: int) -> tuple[bool, ...]:
    """Tell for each block whether it keeps a KV cache of its own, as far as its kind decides it.

    Raises:
        ModelFileError: A key that tells it has an impossible type or length.
    """
    if keeps_no_cache(architecture):
        return (False,) * blocks
    main = blocks - (find_whole(header, f"{architecture}.nextn_predict_layers") or 0)
    cached = [index < main or main <= 0 for index in range(blocks)]  # blocks that only guess ahead are not run
    shared = find_whole(header, f"{architecture}.attention.shared_kv_layers") or 0
    from_start = _CACHED_FROM_START.get(architecture, blocks - shared if architecture == "gemma4" else blocks)
    interval = _FULL_ATTENTION_INTERVAL.get(architecture)
    recurrent: tuple[bool, ...] = (False,) * blocks
    if interval is not None:
        listed = find_whole_or_each(header, f"{architecture}.attention.recurrent_layers", blocks)
        interval = find_whole(header, f"{architecture}.full_attention_interval") or interval
        recurrent = (
            tuple(bool(entry) for entry in listed)
            if listed is not None
            else tuple((index + 1) % interval != 0 for index in range(blocks))
        )
    return tuple(cached[index] and index < from_start and not recurrent[index] for index in range(blocks))


def read_sliding_window(header: GgufHeader, architecture: str, blocks: int) -> SlidingWindow | None:
    """Return the sliding window as the engine applies it; None for full attention everywhere.

    Raises:
        ModelFileError: A key that tells it has an impossible type.
    """
    pattern = _PATTERNS.get(architecture)
    if pattern is None or (architecture == "exaone4" and blocks != _EXAONE4_WINDOWED_BLOCKS):
        return None
    tokens = find_whole(header, f"{architecture}.attention.sliding_window")
    if tokens is None:
        tokens = pattern.default_tokens
    if not tokens:
        return None
    if pattern.fixed_tokens is not None:
        tokens = pattern.fixed_tokens
    windowed = _listed_blocks(header, architecture, blocks) or _blocks_of(pattern, header, architecture, blocks)
    if not any(windowed):
        return None
    return SlidingWindow(tokens=tokens, blocks=windowed)


def _listed_blocks(header: GgufHeader, architecture: str, blocks: int) -> tuple[bool, ...] | None:
    key = f"{architecture}.attention.sliding_window_pattern"
    if not isinstance(header.metadata.get(key), GgufArray):
        return None
    array = find_array(header, key)
    if array is None or array.values is None:
        return None
    listed = tuple(bool(entry) for entry in array.values[:blocks])
    return listed + (False,) * (blocks - len(listed))


def _blocks_of(pattern: _Pattern, header: GgufHeader, architecture: str, blocks: int) -> tuple[bool, ...]:
    period = find_whole(header, f"{architecture}.attention.sliding_window_pattern")
    if period is None:
        period = pattern.period
    if period is None:
        return (False,) * blocks
    if period == 0:
        return (True,) * blocks
    full = 0 if pattern.full_first else period - 1
    return tuple(index % period != full for index in range(blocks))
