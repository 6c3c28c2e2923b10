"""The values that travel between the command line, the client and the worker. Frozen, and plain enough for JSON."""

from collections.abc import Sequence
from enum import StrEnum

from llmrun.models.types import Segment
from llmrun.values import value

__all__ = [
    "DRIVEN_ENGINES",
    "Delta",
    "Done",
    "EngineName",
    "Event",
    "FinishReason",
    "LoadPlan",
    "Notice",
    "Prompt",
    "SamplingOptions",
    "Segment",
    "Stats",
    "TokenLogprob",
]


class EngineName(StrEnum):
    """The engines, named as the user types them. `fake` exists for tests of everything around an engine."""

    LLAMA_CPP = "llama-cpp"
    CTRANSFORMERS = "ctransformers"
    PYTORCH = "pytorch"
    VLLM = "vllm"
    FAKE = "fake"


DRIVEN_ENGINES = frozenset({EngineName.LLAMA_CPP, EngineName.VLLM, EngineName.PYTORCH, EngineName.CTRANSFORMERS})
"""The engines that this version of llmrun has an adapter for."""


@value
class LoadPlan:
    """Everything an engine needs to load a model, decided before its process sees it.

    Attributes:
        engine: Which engine loads it.
        model_path: The file (first file of a split) or folder.
        context_length: Most tokens of prompt and answer together.
        context_is_fixed: The user asked for exactly this context length; otherwise an engine may start with a
            smaller one, and grow up to it.
        threads: CPU threads for compute.
        threads_are_fixed: Always use exactly so many; otherwise an engine may decode with fewer while other programs
            keep cores busy. In a long context, the last bits of a result depend on the number.
        gpu_layers: Layers to put on the GPU; -1 for all.
        kv_type: Type of the KV cache: `f16`, `q8_0` or `q4_0`.
        batch_tokens: Largest micro-batch of the prefill.
        vocabulary_only: Load the tokenizer and no weights (`--dry-run`).
        estimated_bytes: Memory that the plan expects to take at its peak.
        draft_path: A smaller model of the same vocabulary that guesses ahead, or None.
        lookup: Whether to guess ahead from the text so far: `auto` (when it pays, and where checking guesses gives the
            very same logits), `on` (wherever it pays: a close call may come out differently) or `off`.
        cache_folder: Where the KV state of long prompts is kept between runs, or None for nowhere.
        cache_key: What such a state depends on besides the tokens and the build: the identity of the model's file.
        dtype: Type that PyTorch engines compute in: `auto`, `float32`, `bfloat16` or `float16`.
        quantization: Quantize while loading: `4-bit`, `8-bit` or None.
        pickle: Weights that are Python pickles may be loaded; they can run code.
        remote_code: Code that the model brings along may be run.
        model_type: What a legacy file holds (`llama`, `gpt2`, …), where its header cannot tell.
        parallel: Sequences that are expected at once, which an engine may want to know before it loads.
        gpus: Number of GPUs to spread the model over.
        family: Catalogue family, or None.
        flash_attention: Whether llama.cpp computes attention without a matrix of scores: `auto`, `on` or `off`.
        tuned: When threads, micro-batch and attention were found to be faster here than the defaults; empty: never.
    """

    engine: EngineName
    model_path: str
    context_length: int
    context_is_fixed: bool = False
    threads: int
    threads_are_fixed: bool = False
    gpu_layers: int = 0
    kv_type: str = "f16"
    batch_tokens: int = 512
    vocabulary_only: bool = False
    estimated_bytes: int = 0
    draft_path: str | None = None
    lookup: str = "auto"
    cache_folder: str | None = None
    cache_key: str = ""
    dtype: str = "auto"
    quantization: str | None = None
    pickle: bool = False
    remote_code: bool = False
    model_type: str | None = None
    parallel: int = 1
    gpus: int = 1
    family: str | None = None
    flash_attention: str = "auto"
    tuned: str = ""


@value
class SamplingOptions:
    """How to choose the next token, and when to stop. The same meaning on every engine.

    Attributes:
        temperature: 0 is greedy.
        top_p: Keep the smallest set of tokens whose probabilities sum to this; 1 is off.
        top_k: Keep the k likeliest; 0 is off.
        min_p: Drop tokens less likely than this share of the likeliest; 0 is off.
        repeat_penalty: Divide the logits of the last 64 tokens by this; 1 is off.
        max_tokens: Stop after so many tokens; None: until the context is full.
        seed: For repeatable sampling, 0 to 2^32 - 2.
        stop: Texts that end the answer and are left out of it.
        repeatable: Nothing that depends on what else the machine is doing may change how the answer is computed, so
            that the same request gives the same answer.
        continues: This is the next turn of a conversation: all that is there of it in memory is used, the last answer
            too, and only new tokens are processed, also where `repeatable` would have some of it processed again. What
            was computed token by token may be rounded otherwise than in one prompt, so that a close call may come out
            otherwise than for the same conversation given at once; the same turns one after another give the same
            answers again. `Stats.cached_tokens` counts what was there. vLLM keeps whole blocks only, of 16 tokens on
            a GPU and 128 on a processor, and processes what was begun of a block again.
        logprobs: Report the log probability of each token, and of so many of the likeliest ones in its place (0: of
            the chosen token alone); None: of nothing. They are those of the model, before temperature and truncation.
        json_schema: The answer is JSON that this schema (a JSON text) allows; None: anything.
        grammar: The answer is in this language, a GBNF grammar; None: anything.
        ignore_end: Go on when the model would end its turn, up to `max_tokens`: for measurements.
        timed: Report when each token was there (`Stats.token_times`).
    """

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repeat_penalty: float
    max_tokens: int | None
    seed: int
    stop: tuple[str, ...] = ()
    repeatable: bool = False
    continues: bool = False
    logprobs: int | None = None
    json_schema: str | None = None
    grammar: str | None = None
    ignore_end: bool = False
    timed: bool = False


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    """The model ended its turn, or a stop text was met."""
    LENGTH = "length"
    """--max-tokens was reached."""
    CONTEXT = "context"
    """The context is full."""
    CANCELLED = "cancelled"
    """Interrupted."""


@value
class TokenLogprob:
    """How likely the model held one generated token.

    Attributes:
        id: The token.
        text: Its text; a token that is part of a character has U+FFFD for it.
        logprob: Natural logarithm of its probability.
        top: The likeliest tokens in its place, as (id, text, logprob), likeliest first.
    """

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


@value
class Delta:
    """A piece of the answer: whole characters only.

    Attributes:
        text: The characters; empty only where tokens are reported that no character is complete of yet.
        logprobs: The tokens generated since the last delta, when they were asked for.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@value
class Notice:
    """Something the user should know, for standard error."""

    text: str


@value
class Stats:
    """Counts and times of one request, as llama-bench and vLLM define them.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens generated, the end-of-turn token not counted.
        prefill_seconds: Time to process the prompt up to the logits of its last token.
        decode_seconds: From the first generated token to the last; the decode rate is
            (completion_tokens - 1) / decode_seconds, never n / total.
        cached_tokens: Tokens of the prompt that were not processed, because their KV state was there already.
        drafted_tokens: Tokens that were guessed ahead; accepted_tokens of them were right.
        token_times: When each token was there, if that was asked for: seconds of `time.perf_counter`, which on Linux
            and macOS is the same clock in every process.
    """

    prompt_tokens: int
    completion_tokens: int
    prefill_seconds: float
    decode_seconds: float
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    token_times: tuple[float, ...] = ()


@value
class Done:
    """The answer is complete."""

    finish_reason: FinishReason
    stats: Stats


Event = Delta | Notice | Done
Prompt = Sequence[Segment] | Sequence[int]
"""What is to be continued: segments to tokenize, or token ids that are taken as they are."""
