"""What was measured of a model on an engine of this machine, and whether it decides which engine is chosen.

The time that counts is that of a whole request: loading, a prompt, and an answer, of the sizes that were measured. An
engine that decodes faster and takes half a minute to start is not the faster one for a command that ends after one
answer. What is within the noise decides nothing.
"""

from collections.abc import Iterable, Mapping

from llmrun.engines.types import EngineName
from llmrun.values import value

__all__ = ["DRIFT", "MeasuredSpeed", "choose_measured", "explain_measured", "faster_sibling"]

DRIFT = 0.03
"""A margin for what changes from run to run of the same thing on a machine of one's own, as a share."""


@value
class MeasuredSpeed:
    """One engine, with its own defaults.

    Attributes:
        engine: Which engine.
        created: When, as `2026-11-20`.
        load_seconds: Median.
        prompt_tokens: Length of the prompt; answer_tokens of the answer.
        prefill: Tokens a second, for each repetition; decode likewise.
        memory_seen: Bytes a second at which memory was read before and after, which tells a machine that changes from
            one that stays the same (see machine_change.py); empty where it was not measured.
    """

    engine: EngineName
    created: str
    load_seconds: float
    prompt_tokens: int
    answer_tokens: int
    prefill: tuple[float, ...]
    decode: tuple[float, ...]
    memory_seen: tuple[float, ...] = ()

    @property
    def decode_mean(self) -> float:
        """Mean of the decode rate."""
        return sum(self.decode) / len(self.decode)

    @property
    def prefill_mean(self) -> float:
        """Mean of the prefill rate."""
        return sum(self.prefill) / len(self.prefill)

    @property
    def request_seconds(self) -> tuple[float, ...]:
        """Seconds of a whole request, for each repetition."""
        return tuple(
            self.load_seconds + self.prompt_tokens / prefill + self.answer_tokens / decode
            for prefill, decode in zip(self.prefill, self.decode, strict=False)
        )


def choose_measured(
    default: EngineName, able: Iterable[EngineName], speeds: Mapping[EngineName, MeasuredSpeed]
) -> EngineName:
    """Return the engine that was measured to be faster than the one that the rules choose, or that one.

    Args:
        default: What the rules choose.
        able: The engines that can run the model.
        speeds: What was measured; the default has to be among them for anything to be compared.
    """
    known = speeds.get(default)
    if known is None:
        return default
    best, best_ratio = default, 1.0
    for engine in able:
        other = speeds.get(engine)
        if other is None or engine is default or _sizes(other) != _sizes(known):
            continue
        ratio = _real_ratio(known, other)
        if ratio < best_ratio:
            best, best_ratio = engine, ratio
    return best


def faster_sibling(own: MeasuredSpeed, others: Iterable[MeasuredSpeed]) -> MeasuredSpeed | None:
    """Return the fastest of the same model's other quantizations, if it is really faster."""
    best, best_ratio = None, 1.0
    for other in others:
        ratio = _real_ratio(own, other) if _sizes(other) == _sizes(own) else 1.0
        if ratio < best_ratio:
            best, best_ratio = other, ratio
    return best


def _sizes(speed: MeasuredSpeed) -> tuple[int, int]:
    return speed.prompt_tokens, speed.answer_tokens


def _real_ratio(first: MeasuredSpeed, second: MeasuredSpeed) -> float:
    """Return the second's time over the first's, 1 where the difference may be chance, or the machine's own change."""
    from llmrun.engines.measure.statistics import compare_welch

    found = compare_welch(first.request_seconds, second.request_seconds)
    seen = (*first.memory_seen, *second.memory_seen)
    margin = max(DRIFT, max(seen) / min(seen) - 1 if seen else 0.0)
    if found.p_value is None or found.high is None or found.p_value >= 0.05 or found.high > 1 / (1 + margin):
        return 1.0
    return found.ratio


def explain_measured(chosen: MeasuredSpeed, other: MeasuredSpeed) -> str | None:
    """Return both figures and the day; None where different sizes were measured.

    Where the difference may be chance, or the machine's own, that is what is said: the rules have decided then.
    """
    if _sizes(chosen) != _sizes(other):
        return None
    real = _real_ratio(other, chosen) < 1
    if real and chosen.decode_mean >= other.decode_mean:
        return f"measured {chosen.decode_mean:.1f} against {other.decode_mean:.1f} tokens/s on {chosen.created}"
    times = [sum(each.request_seconds) / len(each.request_seconds) for each in (chosen, other)]
    figures = (
        f"{times[0]:.2f} against {times[1]:.2f} s to load, read {chosen.prompt_tokens} tokens and write "
        f"{chosen.answer_tokens}, on {chosen.created}"
    )
    if real:
        return f"measured {figures}"
    return f"no difference to {other.engine} was measured that the machine or chance cannot have made: {figures}"
