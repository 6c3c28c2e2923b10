"""`llmrun bench --compare A.json B.json`: what changed from the one result to the other, and what of it is real."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmrun.cli.output import inert, write_json, write_out
from llmrun.engines.measure.comparison import Compared, Comparison, compare_results
from llmrun.engines.measure.samples import DEFINITIONS
from llmrun.engines.measure.speeds import DRIFT
from llmrun.engines.measure.stored import SETTINGS, StoredResult, read_result
from llmrun.errors import UsageError

__all__ = ["compare", "comparison_text"]

_USUAL = {"kv_type": "f16", "gpu_layers": None, "parallel": 1, "depth": 0}


def compare(paths: Sequence[str], output: str | None) -> None:
    """Compare two results and write what came of it.

    Raises:
        LlmrunError: A file is missing or is no result, or nothing in them can be compared.
    """
    if len(paths) != 2:
        raise UsageError(f"--compare wants two results, found {len(paths)}", fix="llmrun bench --compare A.json B.json")
    if output not in (None, "json"):
        raise UsageError(f"--compare is written as a table or as json, not as {output}")
    first, second = (read_result(Path(path)) for path in paths)
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


def comparison_text(found: Comparison, first: StoredResult, second: StoredResult) -> str:
    """Return the comparison for people."""
    lines = [f"A: {first.name}, {first.created}", f"B: {second.name}, {second.created}"]
    lines += [f"changed: {SETTINGS[name]} {old} → {new}" for name, (old, new) in found.changed.items()]
    title = ""
    for pair in found.pairs:
        if (heading := _heading(pair.settings, found)) != title:
            title = heading
            lines += ["", title]
        lines.append(_line(pair))
    lines.append("")
    lines += [f"! {caution}" for caution in found.cautions]
    if found.unmatched:
        lines.append(f"! {found.unmatched} rows are in one of the results only")
    lines += [
        "ratio is B / A with its 95% interval; real: found by Welch's test of the repetitions' logarithms at 5%,",
        f"with Holm's correction for {len(found.pairs)} comparisons, and beyond a margin of {100 * DRIFT:.0f}% for "
        "what changes from run to run;",
        "on a machine that others use too, measure both more than once, in turns, before you believe it",
    ]
    return inert("\n".join(lines) + "\n")


def _heading(settings: dict[str, Any], found: Comparison) -> str:
    told = [
        f"{SETTINGS[name]} {value}"
        for name, value in settings.items()
        if name not in _USUAL or value != _USUAL[name] or name in found.changed
    ]
    return ", ".join(told)


def _line(pair: Compared) -> str:
    definition, difference = DEFINITIONS[pair.metric], pair.difference
    interval = "" if difference.low is None else f"({difference.low:.3f} to {difference.high:.3f})"
    return (
        f"  {definition.label:<11}{_value(pair, pair.first):>14} → {_value(pair, pair.second):<14}"
        f"{difference.ratio:>7.3f} {interval:<18} {_verdict(pair)}"
    ).rstrip()


def _value(pair: Compared, value: float) -> str:
    if DEFINITIONS[pair.metric].more_is_better:
        return f"{value:,.1f} tok/s"
    return f"{1000 * value:,.2f} ms" if value < 1 else f"{value:,.2f} s"


def _verdict(pair: Compared) -> str:
    if pair.adjusted is None:
        return "one repetition: nothing can be said"
    if not pair.real:
        return "no real difference"
    speed = pair.difference.ratio if DEFINITIONS[pair.metric].more_is_better else 1 / pair.difference.ratio
    word = "faster" if pair.better else "slower"
    return f"real: B is {100 * abs(speed - 1):.1f}% {word}"


def _document(found: Comparison, first: StoredResult, second: StoredResult) -> dict[str, Any]:
    return {
        "version": 1,
        "first": {"name": first.name, "created": first.created},
        "second": {"name": second.name, "created": second.created},
        "changed": {name: list(values) for name, values in found.changed.items()},
        "comparisons": [
            {
                "settings": pair.settings,
                "figure": pair.metric.value,
                "first_mean": pair.first,
                "second_mean": pair.second,
                **asdict(pair.difference),
                "adjusted_p_value": pair.adjusted,
                "real": pair.real,
                "better": pair.better if pair.real else None,
            }
            for pair in found.pairs
        ],
        "unmatched_rows": found.unmatched,
        "cautions": list(found.cautions),
    }
