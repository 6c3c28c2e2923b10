"""The table that people see: rates with bars and their share of the machine's limit, then times and memory.

Everything is drawn from the document, so that a stored result looks as it did when it was measured.
"""

import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmrun.cli.bench.formats import name, short_names
from llmrun.cli.output import inert, write_out
from llmrun.engines.measure.samples import DEFINITIONS, Metric

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["table_text", "write_table"]

_BAR_WIDTHS = (4, 16)  # at least and at most, in characters
_NARROW = 72  # columns below which a table would lose figures, and lines are written instead
_NOISY = "too noisy"
_RATES = (
    (Metric.PREFILL, "{prompt_tokens}", "matrix_product_share"),
    (Metric.DECODE, "{answer_tokens}", "memory_bandwidth_share"),
    (Metric.THROUGHPUT, "{prompt_tokens}+{answer_tokens}", None),
)
_TIMES = (
    ("TTFT", "right"),
    ("TPOT (p95)", "right"),
    ("load", "right"),
    ("cold start", "right"),
    ("peak memory", "right"),
)
_GAPS = 12  # characters between the columns, and beside the first and the last


def write_table(document: Mapping[str, Any]) -> None:
    """Write the table to standard output, in colour where that is a terminal."""
    colour = os.isatty(1) and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
    write_out(table_text(document, colour=colour))


def table_text(document: Mapping[str, Any], *, colour: bool = False, width: int | None = None) -> str:
    """Return the table as text."""
    from rich.console import Console

    text = io.StringIO()
    # A pipe has no width: what is written there is read elsewhere, and nothing may be cut.
    columns = width or (None if os.isatty(1) or "COLUMNS" in os.environ else 120)
    console = Console(
        file=text, force_terminal=colour, width=columns, emoji=False, markup=False, highlight=False, no_color=not colour
    )
    wraps = width is not None or os.isatty(1)
    names = short_names(model["path"] for model in document["models"])
    for model in document["models"]:
        rows = [row for row in document["rows"] if row["model_digest"] == model["digest"]]
        console.print(inert(_heading(model, names[model["path"]])), soft_wrap=not wraps)
        measured = [row for row in rows if not row["error"]]
        if measured and console.width < _NARROW:
            for line in _lines(measured):
                console.print(line, soft_wrap=not wraps)
        elif measured:
            console.print(_rates(measured, document["rows"], console.width))
            console.print(_times(measured))
        for line in _remarks(rows):
            console.print(inert(line), soft_wrap=not wraps)
        console.print()
    for line in _footer(document):
        console.print(inert(line), soft_wrap=not wraps)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _heading(model: Mapping[str, Any], file: str) -> str:
    parts = [model["architecture"], model["quantization"], f"{model['parameters'] / 1e6:,.0f} M parameters"]
    return f"{file} ({', '.join(part for part in parts if part)}, {model['size_bytes'] / 2**20:,.0f} MiB)"


def _table(*columns: tuple[str, str]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for title, justify in columns:
        table.add_column(title, justify="right" if justify == "right" else "left", no_wrap=justify != "wrap")
    return table


def _rates(rows: Sequence[Mapping[str, Any]], every: Sequence[Mapping[str, Any]], width: int) -> "Table":
    """Return the rates of a model; the bars are those of all models, so that they can be compared."""
    cells: list[tuple[str, ...]] = []
    shown: list[tuple[float, bool]] = []  # a bar's part of the longest, and whether it is noise
    for metric, sizes, share in _RATES:
        means = [row["statistics"][metric.value]["mean"] for row in every if metric.value in row["statistics"]]
        for row in (row for row in rows if metric.value in row["statistics"]):
            mean = row["statistics"][metric.value]["mean"]
            test = f"{DEFINITIONS[metric].label} {sizes.format_map(row)}"
            cells.append((name(row), test, _rate(mean), _spread(row, metric), _share(row, share)))
            shown.append((mean / max(means) if max(means) else 0.0, _is_noisy(row, metric)))
    titles = ("engine", "test", "tokens/s", "±", "of limit")
    taken = sum(max(map(len, column)) for column in zip(titles, *cells, strict=True)) + _GAPS
    bar = min(_BAR_WIDTHS[1], max(_BAR_WIDTHS[0], width - taken))
    table = _table(
        ("engine", "wrap"), ("test", ""), ("tokens/s", "right"), ("±", "right"), ("", ""), ("of limit", "right")
    )
    for (*left, of_limit), (part, noisy) in zip(cells, shown, strict=True):
        table.add_row(*left, _bar(part, bar), of_limit, style="dim" if noisy else None)
    return table


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the tables have, one figure a line."""
    lines = []
    for row in rows:
        lines += ["", f"{name(row)}, {_sizes(row)}"]
        for metric, _, share in _RATES:
            if metric.value in row["statistics"]:
                rate = f"{_rate(row['statistics'][metric.value]['mean'])} tokens/s ± {_spread(row, metric)}"
                of_limit = f", {told} of limit" if (told := _share(row, share)) else ""
                lines.append(f"  {DEFINITIONS[metric].label} {rate}{of_limit}")
        told_times = zip(_TIMES, _told_times(row), strict=True)
        lines += [f"  {title} {told}" for (title, _), told in told_times if told]
    return [*lines, ""]


def _times(rows: Sequence[Mapping[str, Any]]) -> "Table":
    several = len({_sizes(row) for row in rows}) > 1
    table = _table(
        ("engine", "wrap"),
        *((("sizes", "right"),) if several else ()),
        *_TIMES,
    )
    for row in rows:
        table.add_row(name(row), *((_sizes(row),) if several else ()), *_told_times(row))
    return table


def _told_times(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the columns of `_TIMES`."""
    gpu = row["gpu_memory_bytes"]
    return (
        _time(_median(row, Metric.TTFT)),
        _pair(_median(row, Metric.TPOT), _median(row, Metric.TPOT_P95)),
        _time(_median(row, Metric.LOAD)),
        _time(_median(row, Metric.COLD_START)),
        f"{row['peak_memory_bytes'] / 2**20:,.0f} MiB" + (f" + {gpu / 2**20:,.0f} GPU" if gpu else ""),
    )


def _rate(mean: float) -> str:
    return f"{mean:,.1f}" if mean < 1000 else f"{mean:,.0f}"


def _spread(row: Mapping[str, Any], metric: Metric) -> str:
    return _error(row["statistics"][metric.value]) + (" noise" if _is_noisy(row, metric) else "")


def _is_noisy(row: Mapping[str, Any], metric: Metric) -> bool:
    return any(warning.startswith(_NOISY) and DEFINITIONS[metric].label in warning for warning in row["warnings"])


def _share(row: Mapping[str, Any], share: str | None) -> str:
    return "" if share is None or row[share] is None else f"{100 * row[share]:.0f}%"


def _sizes(row: Mapping[str, Any]) -> str:
    return f"{row['prompt_tokens']} + {row['answer_tokens']}"


def _bar(part: float, width: int) -> str:
    """Return a bar of eighths of a character, of that part of the width."""
    eighths = round(8 * width * part)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + ("" if rest == 0 else "▏▎▍▌▋▊▉"[rest - 1])).ljust(width)


def _error(found: Mapping[str, Any]) -> str:
    if found["low"] is None or not found["mean"]:
        return "?"
    return f"{50 * (found['high'] - found['low']) / found['mean']:.1f}%"


def _median(row: Mapping[str, Any], metric: Metric) -> float | None:
    found = row["statistics"].get(metric.value)
    return None if found is None else float(found["median"])


def _pair(first: float | None, second: float | None) -> str:
    return "" if first is None or second is None else f"{_time(first)} ({_time(second)})"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{1000 * seconds:.1f} ms" if seconds < 0.1 else f"{seconds:.2f} s"


def _remarks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what went wrong and what a reader must know; what stopped every row of an engine is said once."""
    failures = dict.fromkeys(
        f"✗ {row['engine'] if _all_alike(row, rows) else f'{name(row)}, {_sizes(row)}'}: {row['error']['message']}"
        + (f" (fix: {row['error']['fix']})" if row["error"]["fix"] else "")
        for row in rows
        if row["error"]
    )
    warnings = [f"! {name(row)}, {_sizes(row)}: {warning}" for row in rows for warning in row["warnings"]]
    return [*failures, *warnings]


def _all_alike(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether all rows of the same engine failed with the same words, and there are several."""
    errors = [each["error"] for each in rows if each["engine"] == row["engine"]]
    return len(errors) > 1 and all(error and error["message"] == row["error"]["message"] for error in errors)


def _footer(document: Mapping[str, Any]) -> list[str]:
    cpu = document["machine"]["cpu"]
    lines = [f"{cpu['name'] or 'unknown processor'}; llmrun {document['llmrun']}; {document['created']}"]
    for engine in document["engines"]:
        build = engine["build"]
        told = [build[key] for key in ("recipe", "compiler", "torch") if key in build]
        lines.append(" ".join([engine["engine"], engine["version"] or "", *(f"({part})" for part in told)]).strip())
    for limit in document["limits"]:
        known = []
        if limit["bytes_per_second"]:
            known.append(f"memory {limit['bytes_per_second'] / 1e9:.1f} GB/s")
        if limit["operations_per_second"]:
            known.append(
                f"matrix product {limit['operations_per_second'] / 1e9:,.0f} GFLOP/s ({limit['operations_source']})"
            )
        if known:
            lines.append(f"limits measured on {limit['threads']} threads: {', '.join(known)}")
    count = document["repetitions"]
    lines.append(
        f"{count} repetition{'s' if count != 1 else ''} after a warm-up; ± is half of the 95% interval of the mean; "
        "times are medians; --explain says how each figure is taken"
    )
    if document["interrupted"]:
        lines.append("interrupted: not all points were measured")
    return lines
