"""`llmrun bench --compare A B`: what changed from the one to the other, results or folders, and what of it is real."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmrun.cli.output import inert, write_json, write_out
from llmrun.engines.measure.comparison import ENOUGH_RUNS, Claim, Compared, Comparison, compare_results
from llmrun.engines.measure.samples import DEFINITIONS
from llmrun.engines.measure.speeds import DRIFT
from llmrun.engines.measure.stored import SETTINGS, StoredSide, read_side
from llmrun.errors import UsageError

__all__ = ["compare", "comparison_text"]

_USUAL = {"kv_type": "f16", "gpu_layers": None, "dtype": "auto", "quantization": None, "parallel": 1, "depth": 0}


def compare(paths: Sequence[str], output: str | None) -> None:
    """Compare two results, or two folders of them, and write what came of it.

    Raises:
        LlmrunError: A file is missing or is no result, or nothing in them can be compared.
    """
    if len(paths) != 2:
        raise UsageError(
            f"--compare wants two results or folders of results, found {len(paths)}",
            fix="llmrun bench --compare A.json B.json",
        )
    if output not in (None, "json"):
        raise UsageError(f"--compare is written as a table or as json, not as {output}")
    first, second = (read_side(Path(path)) for path in paths)
    found = compare_results(first, second)
    if not found.pairs:
        raise UsageError(
            f"nothing in {first.name} and {second.name} was measured with the same settings",
            fix="measure both with the same -p, -n, -d and -b",
        )
    if output == "json":
        write_json(_document(found, first, second))
    else:
        write_out(comparison_text(found, first, second))


def comparison_text(found: Comparison, first: StoredSide, second: StoredSide) -> str:
    """Return the comparison for people."""
    lines = [_side("A", first), _side("B", second)]
    lines += [f"changed: {SETTINGS[name]} {old} → {new}" for name, (old, new) in found.changed.items()]
    title = ""
    for pair in found.pairs:
        if (heading := _heading(pair.settings, found)) != title:
            title = heading
            lines += ["", title]
        lines.append(_line(pair, (len(first.runs), len(second.runs))))
    lines.append("")
    lines += [f"! {caution}" for caution in found.cautions]
    if found.unmatched:
        lines.append(f"! {found.unmatched} rows are on one side only")
    return inert("\n".join(lines + _footer(found)) + "\n")


def _side(letter: str, side: StoredSide) -> str:
    if len(side.runs) == 1:
        return f"{letter}: {side.name}, one run, {side.runs[0].created}"
    return f"{letter}: {side.name}, {len(side.runs)} runs, {side.runs[0].created} to {side.runs[-1].created}"


def _footer(found: Comparison) -> list[str]:
    """Return how it was tested, and what that can tell."""
    lines = [
        f"ratio is B / A with its 95% interval; tested at 5%, with Holm's correction for {len(found.pairs)} comparisons"
    ]
    by_runs = [pair for pair in found.pairs if pair.by_runs]
    single = [pair for pair in found.pairs if not pair.by_runs]
    if by_runs:
        lone = (
            ", one run alone taken to vary as those of the other side" if any(min(p.runs) == 1 for p in by_runs) else ""
        )
        lines += [
            f"several runs: Welch's test of the logarithms of the runs' means{lone};",
            f"a difference is real if the sides were measured in turns, {ENOUGH_RUNS} runs or more of both together",
        ]
    if single:
        widest = max(pair.margin for pair in single)
        also = f", or of {100 * widest:.0f}% that the machine itself changed by" if widest > DRIFT else ""
        lines += [
            f"one run of each: Welch's test of the repetitions' logarithms, and a margin of {100 * DRIFT:.0f}%{also};",
            "repetitions do not show what changes from run to run:",
            f"to learn what is real, measure both {ENOUGH_RUNS // 2} times or more, in turns, and compare the folders",
        ]
    return lines


def _heading(settings: dict[str, Any], found: Comparison) -> str:
    told = [
        f"{SETTINGS[name]} {value}"
        for name, value in settings.items()
        if name not in _USUAL or value != _USUAL[name] or name in found.changed
    ]
    return ", ".join(told)


def _line(pair: Compared, runs: tuple[int, int]) -> str:
    definition, difference = DEFINITIONS[pair.metric], pair.difference
    interval = "" if difference.low is None else f"({difference.low:.3f} to {difference.high:.3f})"
    fewer = "" if pair.runs == runs else f" (in {pair.runs[0]} and {pair.runs[1]} runs)"
    return (
        f"  {definition.label:<11}{_value(pair, pair.first):>14} → {_value(pair, pair.second):<14}"
        f"{difference.ratio:>7.3f} {interval:<18} {_verdict(pair)}{fewer}"
    ).rstrip()


def _value(pair: Compared, value: float) -> str:
    if DEFINITIONS[pair.metric].more_is_better:
        return f"{value:,.1f} tok/s"
    return f"{1000 * value:,.2f} ms" if value < 1 else f"{value:,.2f} s"


def _verdict(pair: Compared) -> str:
    if pair.adjusted is None:
        return "one repetition: nothing can be said"
    if pair.claim is None:
        return "no difference shown"
    if pair.claim is Claim.MACHINE:
        return f"not claimed: the machine itself changed by {100 * pair.margin:.0f}%"
    speed = pair.difference.ratio if DEFINITIONS[pair.metric].more_is_better else 1 / pair.difference.ratio
    change = f"{100 * abs(speed - 1):.1f}% {'faster' if pair.better else 'slower'}"
    return f"real: B is {change}" if pair.claim is Claim.REAL else f"these runs: B was {change}"


def _document(found: Comparison, first: StoredSide, second: StoredSide) -> dict[str, Any]:
    return {
        "version": 1,
        "first": _side_document(first),
        "second": _side_document(second),
        "in_turns": found.in_turns,
        "changed": {name: list(values) for name, values in found.changed.items()},
        "comparisons": [_pair_document(pair) for pair in found.pairs],
        "unmatched_rows": found.unmatched,
        "cautions": list(found.cautions),
    }


def _side_document(side: StoredSide) -> dict[str, Any]:
    created = [run.created for run in side.runs]
    return {"name": side.name, "created": created[0], "last_created": created[-1], "runs": len(created)}


def _pair_document(pair: Compared) -> dict[str, Any]:
    return {
        "settings": pair.settings,
        "figure": pair.metric.value,
        "first_mean": pair.first,
        "second_mean": pair.second,
        "first_runs": pair.runs[0],
        "second_runs": pair.runs[1],
        "unit": "run" if pair.by_runs else "repetition",
        **asdict(pair.difference),
        "adjusted_p_value": pair.adjusted,
        "margin": pair.margin,
        "real": pair.real,
        "claim": None if pair.claim is None else pair.claim.value,
        "better": pair.better if pair.real else None,
    }
