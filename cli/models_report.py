"""How models are shown: plain text that reads well in 80 columns and in a pipe, and the JSON documents.

Pure: values in, text or a document out. Long names stand at the end of a line, so that nothing is ever cut.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from llmrun.cli.progress import format_size
from llmrun.models.catalogue import Candidate, Family, Variant
from llmrun.models.store.stored import StoredModel, UnfinishedFile
from llmrun.models.types import LocalModel, ModelFile, ModelInfo

__all__ = [
    "catalogue_document",
    "catalogue_text",
    "family_document",
    "family_text",
    "files_document",
    "list_document",
    "list_text",
    "model_document",
    "model_text",
]

VERSION = 1
QUANTIZATIONS_WIDTH, SIZES_WIDTH = 48, 14  # what is left of 80 columns
_WHERE = {"llmrun-cache": "llmrun", "huggingface-cache": "hub cache", "path": "path"}


def list_text(models: Sequence[StoredModel], unfinished: Sequence[UnfinishedFile]) -> str:
    """Return the table of stored models, with the sum and what was left unfinished."""
    rows = [
        (format_size(model.size_bytes), model.quantization or "-", model.format, _WHERE[model.source], _named(model))
        for model in models
    ]
    text = _table(("SIZE", "QUANT", "FORMAT", "WHERE", "MODEL"), rows) if rows else ""
    if unfinished:
        rest = format_size(sum(file.size_bytes for file in unfinished))
        count = "1 unfinished download" if len(unfinished) == 1 else f"{len(unfinished)} unfinished downloads"
        text += f"\n{count}, {rest}: pull the model again to go on, or delete\n"
        text += "".join(f"  {file.path}\n" for file in unfinished)
    return text


def list_document(models: Sequence[StoredModel], unfinished: Sequence[UnfinishedFile]) -> dict[str, Any]:
    """Return what `models list --json` prints."""
    return {
        "version": VERSION,
        "models": [
            {
                "name": model.name,
                "family": model.family,
                "format": model.format,
                "quantization": model.quantization,
                "size_bytes": model.size_bytes,
                "path": str(model.path),
                "source": model.source,
                "files": files_document(model.files),
            }
            for model in models
        ],
        "unfinished": [{"path": str(file.path), "size_bytes": file.size_bytes} for file in unfinished],
    }


def catalogue_text(families: Iterable[Family]) -> str:
    """Return the table of every name in the catalogue."""
    rows: list[tuple[str, ...]] = []
    for family in sorted(families, key=lambda family: family.name.lower()):
        first, *others = _wrapped(_sizes(family), SIZES_WIDTH)
        rows.append((family.name, family.kind, " ".join(_formats(family)), first))
        rows += [("", "", "", sizes) for sizes in others]
    return _table(("MODEL", "KIND", "FORMATS", "SIZES"), rows)


def catalogue_document(families: Iterable[Family]) -> dict[str, Any]:
    """Return what `models list --catalogue --json` prints."""
    return {
        "version": VERSION,
        "families": [
            {"name": family.name, "kind": family.kind, "sizes": _sizes(family), "formats": _formats(family)}
            for family in families
        ],
    }


def family_text(family: Family, candidates: Sequence[Candidate]) -> str:
    """Return the variants of a catalogue name that is not on this disk."""
    best = candidates[0]
    facts = [
        ("model", family.name),
        ("kind", "trained on conversations" if family.kind == "chat" else "continues text"),
        ("on this disk", "no"),
        ("a pull takes", f"{best.hub_repo}{f':{best.file_name}' if best.file_name else ''}"),
    ]
    if best.variant.pypi:
        facts.append(("or", f"pypi:{best.variant.pypi.distribution}=={best.variant.pypi.version}"))
    rows = []
    for variant, names in _by_variant(candidates).items():
        rows.append((variant.size_label, variant.format.value, f"{variant.context_length:,}", variant.hub_repo))
        rows += [("", "", "", f"  {line}") for line in _wrapped(names, QUANTIZATIONS_WIDTH)]
    return _facts(facts) + "\n" + _table(("SIZE", "FORMAT", "CONTEXT", "REPOSITORY AND QUANTIZATIONS"), rows)


def family_document(family: Family, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Return what `models show NAME --json` prints for a catalogue name that is not on this disk."""
    return {
        "version": VERSION,
        "name": family.name,
        "kind": family.kind,
        "on_disk": False,
        "variants": [
            {
                "format": candidate.variant.format.value,
                "size": candidate.variant.size_label,
                "context_length": candidate.variant.context_length,
                "quantization": candidate.quantization,
                "hub_repo": candidate.hub_repo,
                "file_name": candidate.file_name,
            }
            for candidate in candidates
        ],
    }


def model_text(model: LocalModel, info: ModelInfo) -> str:
    """Return what is known of a model on this disk."""
    facts = [("model", model.ref.text), ("path", str(model.path)), ("where", _WHERE[model.source])]
    if model.family:
        facts.append(("family", model.family))
    facts += _header_facts(info)
    facts.append(("size", format_size(sum(file.size_bytes for file in model.files))))
    text = _facts(facts)
    if len(model.files) == 1:
        return text + _facts([("sha256", model.files[0].sha256 or "not recorded")])
    rows = [(format_size(file.size_bytes), file.sha256 or "-", file.path.name) for file in model.files]
    return text + "\n" + _table(("SIZE", "SHA256", "FILE"), rows)


def model_document(model: LocalModel, info: ModelInfo) -> dict[str, Any]:
    """Return what `models show --json` prints for a model on this disk."""
    return {
        "version": VERSION,
        "name": model.ref.text,
        "on_disk": True,
        "path": str(model.path),
        "source": model.source,
        "family": model.family,
        "size_bytes": sum(file.size_bytes for file in model.files),
        "files": files_document(model.files),
        "header": {
            "format": info.format.value,
            "name": info.name,
            "architecture": info.architecture,
            "architecture_source": info.architecture_source,
            "parameters": info.parameters,
            "quantization": info.quantization,
            "context_length": info.context_length,
            "layers": info.layers,
            "heads": info.heads,
            "kv_heads": list(info.kv_heads),
            "vocabulary_size": info.vocabulary_size,
            "sliding_window": info.sliding_window,
            "tensor_bytes": info.tensor_bytes,
            "tensor_types": dict(info.tensor_types),
            "tokenizer": info.tokenizer_model,
            "has_chat_template": info.chat_template is not None,
            "warnings": list(info.warnings),
        },
    }


def files_document(files: Iterable[ModelFile]) -> list[dict[str, Any]]:
    """Return the files of a model for a JSON document."""
    return [{"path": str(file.path), "size_bytes": file.size_bytes, "sha256": file.sha256} for file in files]


def _header_facts(info: ModelInfo) -> list[tuple[str, str]]:
    total = sum(size for _, size in info.tensor_types) or 1
    types = ", ".join(f"{name} {100 * size / total:.0f} %" for name, size in info.tensor_types[:4])
    facts = [
        ("name", info.name or "-"),
        ("format", info.format.value),
        ("architecture", _architecture(info)),
        ("parameters", _parameters(info.parameters)),
        ("quantization", info.quantization or "unknown"),
        ("tensor types", types),
        ("context", f"{info.context_length:,} tokens" if info.context_length else "not stated"),
        ("shape", _shape(info)),
        ("vocabulary", f"{info.vocabulary_size:,} tokens, {info.tokenizer_model or 'no tokenizer'}"),
        ("template", _template(info)),
    ]
    if info.experts:
        facts.append(("experts", f"{info.experts_used} of {info.experts}"))
    return facts + [("warning", warning) for warning in info.warnings]


def _architecture(info: ModelInfo) -> str:
    source = info.architecture_source
    return info.architecture if source is None else f"{info.architecture} (told by: {source})"


def _shape(info: ModelInfo) -> str:
    kv_heads = sorted(set(info.kv_heads)) or [0]
    kv_text = "-".join(str(count) for count in {kv_heads[0]: 0, kv_heads[-1]: 0})
    window = f", window {info.sliding_window:,}" if info.sliding_window else ""
    return f"{info.layers} layers, width {info.embedding_length:,}, {info.heads} heads, {kv_text} KV heads{window}"


def _template(info: ModelInfo) -> str:
    if info.chat_template:
        return "in the file"
    return "the catalogue's, if it has one" if info.family else "none"


def _parameters(count: int) -> str:
    for size, unit in ((1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:,}"


def _sizes(family: Family) -> list[str]:
    labels = {variant.size_label: variant.parameters_billion for variant in family.variants}
    return sorted(labels, key=lambda label: labels[label])


def _formats(family: Family) -> list[str]:
    return list(dict.fromkeys(variant.format.value for variant in family.variants))


def _named(model: StoredModel) -> str:
    return f"{model.name}  ({model.family})" if model.family else model.name


def _by_variant(candidates: Sequence[Candidate]) -> dict[Variant, list[str]]:
    grouped: dict[Variant, list[str]] = {}
    for candidate in candidates:
        grouped.setdefault(candidate.variant, []).append(candidate.quantization or "unquantized")
    return grouped


def _wrapped(words: Sequence[str], width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(" ".join(words), width, break_on_hyphens=False)


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    return "".join(f"{name:<12}  {value}\n" for name, value in facts)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head) - 1)]
    return "".join(
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row[:-1], widths, strict=True)), row[-1]]).rstrip()
        + "\n"
        for row in (head, *rows)
    )
