"""What is measured of a point, by name, with its unit and its definition: one list for tables, documents and the docs.

The definitions are those that llama-bench and vLLM use, so that figures can be compared.
"""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["DEFINITIONS", "Definition", "Metric"]


class Metric(StrEnum):
    """The figures of a point; each has one value for every repetition."""

    PREFILL = "prefill_tokens_per_second"
    DECODE = "decode_tokens_per_second"
    THROUGHPUT = "throughput_tokens_per_second"
    TTFT = "ttft_seconds"
    TPOT = "tpot_seconds"
    TPOT_P95 = "tpot_p95_seconds"
    LOAD = "load_seconds"
    COLD_START = "cold_start_seconds"
    PREFILL_ENERGY = "prefill_joules_per_token"
    DECODE_ENERGY = "decode_joules_per_token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What a figure is.

    Attributes:
        label: Its name for people.
        text: How it is taken.
        more_is_better: Whether a larger value is the better one.
    """

    label: str
    text: str
    more_is_better: bool = False


DEFINITIONS = {
    Metric.PREFILL: Definition(
        label="prefill",
        text="tokens of the prompt that were processed / the time until the logits of its last one were there",
        more_is_better=True,
    ),
    Metric.DECODE: Definition(
        label="decode",
        text="(n - 1) / (t_last - t_first) for n generated tokens, never n / total; of several requests at once: the "
        "tokens that came while all of them were writing / that time",
        more_is_better=True,
    ),
    Metric.THROUGHPUT: Definition(
        label="throughput",
        text="of several requests at once, prompt and answer: the tokens of all answers / the time from sending the "
        "requests to the last token of the last one, which vLLM calls output tokens/s",
        more_is_better=True,
    ),
    Metric.TTFT: Definition(label="TTFT", text="from sending a prompt of -p tokens to the first text of its answer"),
    Metric.TPOT: Definition(label="TPOT", text="time from one token to the next; the median of a repetition"),
    Metric.TPOT_P95: Definition(label="TPOT p95", text="the time that 95% of a repetition's tokens stay below"),
    Metric.LOAD: Definition(label="load", text="reading the weights and setting up the engine, its import left out"),
    Metric.COLD_START: Definition(
        label="cold start", text="from starting `llmrun run` to its answer of one token; files are in the page cache"
    ),
    Metric.PREFILL_ENERGY: Definition(label="prefill energy", text="joules for each token of the prompt"),
    Metric.DECODE_ENERGY: Definition(label="decode energy", text="joules for each generated token"),
}
