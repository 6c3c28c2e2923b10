"""The options that mean the same in every command, each defined once.

Every one can also be set in the environment: `--top-p` is LLMRUN_TOP_P. Ranges are checked here, so that a value that
no engine could honour ends with exit code 2 before anything is started.
"""

from pathlib import Path
from typing import Annotated

import typer

from llmrun.cli.option_checks import finite, known_engine, known_kv_type, one_of, positive, stop_texts

__all__ = [
    "AllowPickle",
    "ContextLength",
    "Draft",
    "Dtype",
    "Engine",
    "GpuLayers",
    "Grammar",
    "JsonOutput",
    "JsonSchema",
    "KeepAlive",
    "KvType",
    "Logprobs",
    "Lookup",
    "MaxTokens",
    "MinP",
    "ModelType",
    "NoCache",
    "NoFallback",
    "Offline",
    "OnOverflow",
    "Quantization",
    "Quiet",
    "RepeatPenalty",
    "Seed",
    "Stop",
    "System",
    "Temperature",
    "Threads",
    "TopK",
    "TopP",
    "TrustRemoteCode",
    "Yes",
]

OVERFLOWS = ("error", "drop-oldest", "drop-middle")
LOOKUPS = ("auto", "on", "off")
DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("4-bit", "8-bit")
MODEL_TYPES = ("llama", "gpt2", "gptj", "gpt_neox", "dolly-v2", "starcoder", "mpt", "replit", "falcon")
MODEL_PANEL, SAMPLING_PANEL, OUTPUT_PANEL = "Model and engine", "Sampling", "Output"
LARGEST_SEED = 2**32 - 2  # 2^32 - 1 means "any seed" to llama.cpp


Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        envvar="LLMRUN_ENGINE",
        callback=known_engine,
        metavar="NAME",
        help="Use this engine (llama-cpp, ctransformers, pytorch, vllm) instead of the best one.",
        rich_help_panel=MODEL_PANEL,
    ),
]
ContextLength = Annotated[
    int | None,
    typer.Option(
        "--context-length",
        envvar="LLMRUN_CONTEXT_LENGTH",
        min=1,
        metavar="TOKENS",
        help="Tokens of prompt and answer together [default: what the model was trained for, if it fits in memory].",
        rich_help_panel=MODEL_PANEL,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        envvar="LLMRUN_THREADS",
        min=1,
        max=1024,
        help="CPU threads [default: the physical cores that this process may use].",
        rich_help_panel=MODEL_PANEL,
    ),
]
GpuLayers = Annotated[
    int | None,
    typer.Option(
        "--gpu-layers",
        metavar="N",
        envvar="LLMRUN_GPU_LAYERS",
        min=-1,
        max=100_000,
        help="Layers to put on the GPU, -1 for all [default: as many as fit].",
        rich_help_panel=MODEL_PANEL,
    ),
]
KvType = Annotated[
    str,
    typer.Option(
        "--kv-type",
        envvar="LLMRUN_KV_TYPE",
        metavar="TYPE",
        callback=known_kv_type,
        help="Type of the KV cache: f16, q8_0 or q4_0; the smaller ones take less memory and are less exact.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(
        "--draft",
        envvar="LLMRUN_DRAFT",
        metavar="MODEL",
        help="A smaller model of the same vocabulary that guesses ahead; the answer stays that of MODEL.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Lookup = Annotated[
    str,
    typer.Option(
        "--lookup",
        envvar="LLMRUN_LOOKUP",
        metavar="WHEN",
        callback=one_of(LOOKUPS),
        help="Guess ahead from what the prompt and the answer say already: auto (while it pays), on or off.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        envvar="LLMRUN_DTYPE",
        metavar="TYPE",
        callback=one_of(DTYPES),
        help="What pytorch and vllm compute in: auto (what is faster here), float32, bfloat16 or float16.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Quantization = Annotated[
    str | None,
    typer.Option(
        "--quantization",
        envvar="LLMRUN_QUANTIZATION",
        metavar="BITS",
        callback=one_of(QUANTIZATIONS),
        help="Quantize unquantized weights while loading: 4-bit or 8-bit (pytorch, on a GPU).",
        rich_help_panel=MODEL_PANEL,
    ),
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Load weights that are Python pickles, which can run code; only from sources that you trust.",
        rich_help_panel=MODEL_PANEL,
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the Python code that a model brings along, with all your rights.",
        rich_help_panel=MODEL_PANEL,
    ),
]
ModelType = Annotated[
    str | None,
    typer.Option(
        "--model-type",
        envvar="LLMRUN_MODEL_TYPE",
        metavar="TYPE",
        callback=one_of(MODEL_TYPES),
        help="What a file from before GGUF holds, where it does not say: llama, gpt2, starcoder, …",
        rich_help_panel=MODEL_PANEL,
    ),
]
JsonSchema = Annotated[
    str | None,
    typer.Option(
        "--json-schema",
        metavar="FILE|TEXT",
        help="The answer is JSON that this schema allows.",
        rich_help_panel=SAMPLING_PANEL,
    ),
]
Grammar = Annotated[
    Path | None,
    typer.Option(
        "--grammar",
        metavar="FILE",
        help="The answer is in the language of this GBNF grammar.",
        rich_help_panel=SAMPLING_PANEL,
    ),
]
Logprobs = Annotated[
    int | None,
    typer.Option(
        "--logprobs",
        metavar="N",
        min=0,
        max=100,
        help="With --json: the log probability of each token, and of the N likeliest in its place.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
NoFallback = Annotated[
    bool,
    typer.Option(
        "--no-fallback",
        envvar="LLMRUN_NO_FALLBACK",
        help="When the engine crashes, do not try the next one.",
        rich_help_panel=MODEL_PANEL,
    ),
]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache",
        envvar="LLMRUN_NO_CACHE",
        help="Neither use nor keep the processed beginnings of long prompts.",
        rich_help_panel=MODEL_PANEL,
    ),
]
KeepAlive = Annotated[
    str | None,
    typer.Option(
        "--keep-alive",
        envvar="LLMRUN_KEEP_ALIVE",
        metavar="TIME",
        help="Leave the model loaded for the next command: 30s, 10m, 1h, forever; 0 unloads it.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Offline = Annotated[
    bool,
    typer.Option("--offline", envvar="LLMRUN_OFFLINE", help="Never use the network.", rich_help_panel=MODEL_PANEL),
]
Temperature = Annotated[
    float,
    typer.Option(
        "--temperature",
        metavar="T",
        envvar="LLMRUN_TEMPERATURE",
        min=0,
        callback=finite,
        help="Randomness; 0 always takes the likeliest token.",
        rich_help_panel=SAMPLING_PANEL,
    ),
]
TopP = Annotated[
    float,
    typer.Option(
        "--top-p",
        metavar="P",
        envvar="LLMRUN_TOP_P",
        min=0,
        max=1,
        callback=finite,
        help="Keep the likeliest tokens that together have this probability; 1 keeps all.",
        rich_help_panel=SAMPLING_PANEL,
    ),
]
TopK = Annotated[
    int,
    typer.Option(
        "--top-k",
        metavar="K",
        envvar="LLMRUN_TOP_K",
        min=0,
        max=2**31 - 1,
        help="Keep so many of the likeliest tokens; 0 keeps all.",
        rich_help_panel=SAMPLING_PANEL,
    ),
]
MinP = Annotated[
    float,
    typer.Option(
        "--min-p",
        metavar="P",
        envvar="LLMRUN_MIN_P",
        min=0,
        max=1,
        callback=finite,
        help="Drop tokens less likely than this share of the likeliest one; 0 drops none.",
        rich_help_panel=SAMPLING_PANEL,
    ),
]
RepeatPenalty = Annotated[
    float,
    typer.Option(
        "--repeat-penalty",
        metavar="X",
        envvar="LLMRUN_REPEAT_PENALTY",
        callback=positive,
        help="Make the last 64 tokens less likely; 1 does nothing.",
        rich_help_panel=SAMPLING_PANEL,
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        metavar="N",
        envvar="LLMRUN_MAX_TOKENS",
        min=1,
        max=2**31 - 1,
        help="End the answer after so many tokens [default: when the context is full].",
        rich_help_panel=SAMPLING_PANEL,
    ),
]
OnOverflow = Annotated[
    str,
    typer.Option(
        "--on-overflow",
        metavar="WHAT",
        envvar="LLMRUN_ON_OVERFLOW",
        callback=one_of(OVERFLOWS),
        help="When the prompt is too long: error, or leave out what does not fit of files and standard input, from "
        "their beginning (drop-oldest) or their middle (drop-middle).",
        rich_help_panel=SAMPLING_PANEL,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        envvar="LLMRUN_SEED",
        min=0,
        max=LARGEST_SEED,
        help="Same seed, same answer [default: another one each time, shown by --stats and --json].",
        rich_help_panel=SAMPLING_PANEL,
    ),
]
Stop = Annotated[
    list[str],
    typer.Option(
        "--stop",
        callback=stop_texts,
        metavar="TEXT",
        help="End the answer before this text; may be given more than once.",
        rich_help_panel=SAMPLING_PANEL,
    ),
]
System = Annotated[
    str | None,
    typer.Option("--system", envvar="LLMRUN_SYSTEM", metavar="TEXT", help="What the model is told about its role."),
]
JsonOutput = Annotated[
    bool,
    typer.Option(
        "--json",
        envvar="LLMRUN_JSON",
        help="Print one JSON document instead of text.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        envvar="LLMRUN_QUIET",
        help="Nothing on standard error but errors.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
Yes = Annotated[
    bool,
    typer.Option(
        "--yes",
        "-y",
        envvar="LLMRUN_YES",
        help="Download a model that is not here without asking; only at a terminal anybody is asked.",
        rich_help_panel=MODEL_PANEL,
    ),
]
