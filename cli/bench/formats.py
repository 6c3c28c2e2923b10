"""Results as text: one JSON document, JSON lines, CSV, Markdown, or a table for people. Pure but for the last step."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from llmrun.cli.output import write_json, write_out
from llmrun.engines.measure.bench import Row
from llmrun.engines.measure.result import SCHEMA, VERSION, row_document
from llmrun.engines.measure.samples import DEFINITIONS, Metric

__all__ = ["csv_text", "definitions_text", "markdown_text", "name", "short_names", "write_row", "write_whole"]

_SETTINGS = (
    "model",
    "engine",
    "threads",
    "kv_type",
    "gpu_layers",
    "dtype",
    "quantization",
    "parallel",
    "depth",
    "prompt_tokens",
    "answer_tokens",
)
_OTHERS = ("memory_bandwidth_share", "matrix_product_share", "peak_memory_bytes", "gpu_memory_bytes")
_LAYERS = {-1: "all", 0: "no"}
_STATISTICS = ("mean", "sd", "median", "low", "high")


def write_row(row: Row) -> None:
    """Write one row as a line of JSON."""
    write_out(json.dumps({"schema": SCHEMA, "version": VERSION, **row_document(row)}) + "\n")


def write_whole(document: Mapping[str, Any], output: str | None) -> None:
    """Write a whole result."""
    if output == "json":
        write_json(dict(document))
    elif output == "csv":
        write_out(csv_text(document))
    elif output == "md":
        write_out(markdown_text(document))
    else:
        from llmrun.cli.bench.table import write_table

        write_table(document)


def csv_text(document: Mapping[str, Any]) -> str:
    """Return a line for each row: its settings, five statistics of every figure, and what else was seen."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    statistics = [f"{metric.value}_{name}" for metric in Metric for name in _STATISTICS]
    writer.writerow([*_SETTINGS, "error", *statistics, *_OTHERS, "warnings", "created", "llmrun"])
    for row in document["rows"]:
        values = [row["statistics"].get(metric.value, {}).get(name) for metric in Metric for name in _STATISTICS]
        writer.writerow(
            [
                *(row[name] for name in _SETTINGS),
                row["error"]["message"] if row["error"] else None,
                *values,
                *(row[name] for name in _OTHERS),
                "; ".join(row["warnings"]),
                document["created"],
                document["llmrun"],
            ]
        )
    return text.getvalue()


def markdown_text(document: Mapping[str, Any]) -> str:
    """Return a table as llama-bench writes it: mean ± standard deviation."""
    head = ("model", "engine", "threads", "test", "tokens/s", "of the limit", "TTFT", "TPOT (p95)", "peak memory")
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    models = short_names(row["model"] for row in document["rows"])
    for row in document["rows"]:
        cells = _markdown_cells(row, models[row["model"]])
        lines += ["| " + " | ".join(_markdown_cell(text) for text in line) + " |" for line in cells]
    notes = [f"- {name(row)}: {_in_one_line(warning)}" for row in document["rows"] for warning in row["warnings"]]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def name(row: Mapping[str, Any]) -> str:
    """Return what tells a row from others: engine, sizes, and settings that are not the usual ones."""
    parts = [row["engine"], f"{row['threads']} thread{'s' if row['threads'] != 1 else ''}"]
    parts += [f"depth {row['depth']}"] if row["depth"] else []
    parts += [f"{row['parallel']} at once"] if row["parallel"] > 1 else []
    parts += [f"KV {row['kv_type']}"] if row["kv_type"] != "f16" else []
    parts += [row["dtype"]] if row.get("dtype", "auto") != "auto" else []
    parts += [row["quantization"]] if row.get("quantization") is not None else []
    layers = row["gpu_layers"]
    parts += [] if layers is None else [f"{_LAYERS.get(layers, layers)} GPU layers"]
    return ", ".join(parts)


def short_names(references: Iterable[str]) -> dict[str, str]:
    """Return the last part of each path or name; the whole of those that have it in common with another one."""
    last = {reference: reference.rstrip("/").rsplit("/", 1)[-1] or reference for reference in references}
    count = Counter(last.values())
    return {reference: part if count[part] == 1 else reference for reference, part in last.items()}


def _markdown_cell(text: str) -> str:
    return _in_one_line(text).replace("\\", "\\\\").replace("|", "\\|")


def _in_one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _markdown_cells(row: Mapping[str, Any], model: str) -> list[list[str]]:
    first = [model, row["engine"], str(row["threads"])]
    if row["error"]:
        return [[*first, "failed", row["error"]["message"], "", "", "", ""]]
    cells = []
    memory = f"{row['peak_memory_bytes'] / 2**20:,.0f} MiB"
    suffix = (f" @ d{row['depth']}" if row["depth"] else "") + (f" × {row['parallel']}" if row["parallel"] > 1 else "")  # noqa: RUF001
    if row["prompt_tokens"]:
        cells.append(
            [
                *first,
                f"pp{row['prompt_tokens']}{suffix}",
                _rate(row, Metric.PREFILL),
                _percent(row["matrix_product_share"]),
                _milliseconds(row, Metric.TTFT),
                "",
                memory,
            ]
        )
    if row["answer_tokens"]:
        tpot = f"{_milliseconds(row, Metric.TPOT)} ({_milliseconds(row, Metric.TPOT_P95)})"
        share = _percent(row["memory_bandwidth_share"])
        cells.append([*first, f"tg{row['answer_tokens']}{suffix}", _rate(row, Metric.DECODE), share, "", tpot, memory])
    if Metric.THROUGHPUT.value in row["statistics"]:
        test = f"pp{row['prompt_tokens']}+tg{row['answer_tokens']}{suffix}"
        cells.append([*first, test, _rate(row, Metric.THROUGHPUT), "", "", "", memory])
    return cells


def _rate(row: Mapping[str, Any], metric: Metric) -> str:
    found = row["statistics"][metric.value]
    return f"{found['mean']:,.2f}" + ("" if found["sd"] is None else f" ± {found['sd']:,.2f}")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}%"


def _milliseconds(row: Mapping[str, Any], metric: Metric) -> str:
    return f"{1000 * row['statistics'][metric.value]['median']:,.1f} ms"


def definitions_text() -> str:
    """Return how each figure is taken."""
    lines = [f"{definition.label}: {definition.text}\n" for definition in DEFINITIONS.values()]
    return "".join(lines) + _MORE


_MORE = """\
peak memory: the engine's process and all that it started, as the kernel counts their resident peaks
of the limit: of decode, the bytes that each token reads (weights and KV) against the memory bandwidth that was
measured here on as many threads; of prefill, two operations for each weight and token (and attention) against the
fastest matrix product that could be made here, of whatever type of number
±: half of the 95% interval of the mean over the repetitions (Student's t); in csv and json, sd is the deviation of one
"""
