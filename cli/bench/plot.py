"""Pictures of a result: prefill and decode by engine, by depth, by requests at once or by threads, with their limits.

The axis is the first of these of which more than one value was measured; without any, every row is a bar. The limit
is drawn where it was measured: what decode would be if it read memory as fast as the machine can, and prefill if it
multiplied as fast. matplotlib is an extra (`pip install llmrun[plot]`) and is imported for nothing else.
"""

import contextlib
import importlib.util
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmrun.cli.bench.formats import short_names
from llmrun.cli.output import inert
from llmrun.engines.measure.samples import DEFINITIONS, Metric
from llmrun.errors import StorageError, UsageError

__all__ = ["check_plot", "write_plot"]

_FORMATS = (".svg", ".png")
_AXES = {
    "depth": "tokens in the context",
    "parallel": "requests at once",
    "threads": "threads",
    "prompt_tokens": "tokens of the prompt",
    "answer_tokens": "tokens of the answer",
}
_PANELS = (
    (Metric.PREFILL, "matrix_product_share"),
    (Metric.DECODE, "memory_bandwidth_share"),
    (Metric.THROUGHPUT, None),
)
_INCHES = (5.0, 4.2)  # of a panel
_LIMIT_LABEL = "limit of the machine"
_LIMIT = {"color": "0.35", "linestyle": "--", "linewidth": 1.2}


def check_plot(path: Path | None) -> None:
    """Refuse, before anything is measured, what could not be drawn afterwards.

    Raises:
        UsageError: The name says no format, the folder is not there, or matplotlib is not installed.
        StorageError: Nothing can be written there.
    """
    if path is None:
        return
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(f"--plot wants a file that ends in .svg or .png, found {path}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--plot {path}: there is no folder {path.absolute().parent}")
    if path.exists() and not path.is_file():
        raise UsageError(f"--plot {path}: it is there and is no file")
    if not os.access(path.absolute().parent, os.W_OK):
        raise StorageError(f"--plot {path}: nothing may be written in {path.absolute().parent}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--plot draws with matplotlib, which is not installed", fix="pip install 'llmrun[plot]'")


def write_plot(document: Mapping[str, Any], path: Path) -> None:
    """Draw a result.

    Raises:
        UsageError: Nothing was measured.
        StorageError: The file cannot be written.
    """
    rows = [row for row in document["rows"] if not row["error"]]
    if not rows:
        raise UsageError("--plot: nothing was measured that could be drawn")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Text stays text in an SVG, and the same result gives the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "llmrun"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of signs that the font has not, for whoever wrote the program
        panels = [panel for panel in _PANELS if any(panel[0].value in row["statistics"] for row in rows)]
        figure = Figure(figsize=(_INCHES[0] * max(2, len(panels)), _INCHES[1]), layout="constrained")
        for axes, (metric, share) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw(axes, metric, share, rows)
        _explain(figure)
        figure.suptitle(_title(document), fontsize=9, parse_math=False)
        drawn, kind = io.BytesIO(), path.suffix.lower().removeprefix(".")
        figure.savefig(drawn, format=kind, metadata={"Date": None} if kind == "svg" else None, dpi=130)
    _replace(path, drawn.getvalue())


def _replace(path: Path, data: bytes) -> None:
    """Write a file in one step: when the disk is full, what was there before is still there."""
    target = path.resolve()
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise StorageError(f"--plot {path} cannot be written: {error.strerror or error}") from error


def _title(document: Mapping[str, Any]) -> str:
    models = _shown(", ".join(short_names(model["path"] for model in document["models"]).values()))
    return f"{models} on {document['machine']['cpu']['name'] or 'an unknown processor'}, {document['created'][:10]}"


def _draw(axes: Any, metric: Metric, share: str | None, every: Sequence[Mapping[str, Any]]) -> None:
    axis = next((field for field in _AXES if len({row[field] for row in every}) > 1), None)
    names = _series(every, axis)
    axes.set_title(DEFINITIONS[metric].label)
    if axis is None or len(set(names)) == len(every):
        _draw_bars(axes, metric, share, list(zip(_series(every, None), every, strict=True)))
    else:
        measured = [(text, row) for text, row in zip(names, every, strict=True) if metric.value in row["statistics"]]
        _draw_lines(axes, metric, share, measured, axis)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_bars(axes: Any, metric: Metric, share: str | None, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Draw a bar for each row, from the first one at the top; a row without the figure has none."""
    for place, (_, row) in enumerate(rows):
        if metric.value not in row["statistics"]:
            continue
        mean, error = row["statistics"][metric.value]["mean"], _error(row, metric)
        axes.barh(place, mean, xerr=error, capsize=3, height=0.6, color=f"C{place % 10}")
        axes.annotate(
            f"{mean:,.0f}", (mean + (error or 0.0), place), (4, 0), textcoords="offset points", va="center", fontsize=9
        )
        limit = _limit(row, metric, share)
        if limit is not None:
            axes.vlines(limit, place - 0.4, place + 0.4, **_LIMIT, label=_LIMIT_LABEL)
    first = axes.get_subplotspec().is_first_col()
    labels = [text.replace(", ", "\n", 1) if first else "" for text, _ in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.margins(x=0.15)
    axes.set_xlabel("tokens/s")
    axes.grid(axis="x", alpha=0.3)


def _draw_lines(
    axes: Any, metric: Metric, share: str | None, rows: Sequence[tuple[str, Mapping[str, Any]]], axis: str
) -> None:
    for number, series in enumerate(dict.fromkeys(series for series, _ in rows)):
        members = sorted((row for own, row in rows if own == series), key=lambda row: int(row[axis]))
        places = [row[axis] for row in members]
        means = [row["statistics"][metric.value]["mean"] for row in members]
        errors = [_error(row, metric) or 0.0 for row in members]
        axes.errorbar(places, means, yerr=errors, marker="o", capsize=3, color=f"C{number % 10}", label=series)
        limits = [_limit(row, metric, share) for row in members]
        if all(limit is not None for limit in limits):
            axes.plot(places, limits, **(_LIMIT | {"color": f"C{number % 10}"}), label=_LIMIT_LABEL)
    axes.set_xticks(sorted({row[axis] for _, row in rows}))
    axes.set_xlabel(_AXES[axis])
    axes.set_ylabel("tokens/s")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)


def _explain(figure: Any) -> None:
    """Put one legend below all panels: each line once, and what is dashed."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    limit = found.pop(_LIMIT_LABEL, None)
    if limit is not None:
        found[_LIMIT_LABEL] = limit
    if found:
        legend = figure.legend(
            found.values(), found.keys(), loc="outside lower center", ncols=min(3, len(found)), fontsize=8
        )
        for text in legend.get_texts():
            text.set_parse_math(False)


def _series(rows: Sequence[Mapping[str, Any]], axis: str | None) -> list[str]:
    """Return what each row is called: its engine, and of everything but the axis what is not the same in all rows.

    The engine is first, because a legend leaves out what begins with an underscore, and names of files may.
    """
    models = short_names(row["model"] for row in rows)
    told = [field for field in _FIELDS if field != axis and len({row[field] for row in rows}) > 1]
    return [
        ", ".join(
            [
                row["engine"],
                *([_shown(models[row["model"]])] if len(models) > 1 else []),
                *(f"{_FIELDS[field]} {row[field]}" for field in told),
            ]
        )
        for row in rows
    ]


_FIELDS = {
    "threads": "threads",
    "depth": "depth",
    "parallel": "at once",
    "kv_type": "KV",
    "gpu_layers": "GPU layers",
    "prompt_tokens": "prompt",
    "answer_tokens": "answer",
}


def _shown(text: str) -> str:
    """Return a name as far as it is text: names of files need not be UTF-8."""
    return inert(text).encode("utf-8", "replace").decode()


def _error(row: Mapping[str, Any], metric: Metric) -> float | None:
    found = row["statistics"][metric.value]
    return None if found["low"] is None else float(found["high"] - found["low"]) / 2


def _limit(row: Mapping[str, Any], metric: Metric, share: str | None) -> float | None:
    """Return the rate at which the machine's limit would be reached."""
    return row["statistics"][metric.value]["mean"] / row[share] if share and row[share] else None
