"""Tell the model type of a legacy file where its layout leaves two: by its tokens, else by its name.

gpt2 and starcoder are written alike, and so are gpt_neox and dolly-v2. The second of each pair has tokens of its own
for what it was trained to do, and a file with them is one. Without them, the catalogue's word counts, then the file's
name. When nothing tells, the first of the pair is assumed and said: their loaders compute the same, and differ only in
which of the tokens they never split.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from llmrun.errors import ModelFileError, UsageError
from llmrun.models.ggml.types import TypeSource

__all__ = ["MARKS", "MODEL_TYPES", "TypeChoice", "choose_type", "normal_type", "type_in_catalogue"]

MODEL_TYPES = ("llama", "gpt2", "gptj", "gpt_neox", "dolly-v2", "starcoder", "mpt", "replit", "falcon")
"""As ctransformers calls them."""

MARKS: Mapping[str, tuple[bytes, ...]] = {
    "starcoder": (b"<fim_prefix>", b"<fim-prefix>"),
    "dolly-v2": (b"### Instruction:", b"### End"),
}
"""Tokens that only models of one type have."""

_ALIASES = {"gptbigcode": "starcoder", "dolly": "dolly-v2"}
_IN_NAMES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("starcoder", re.compile(r"star-?coder|star-?chat|santa-?coder|wizard-?coder|octo-?coder")),
    ("dolly-v2", re.compile(r"dolly")),
    ("gpt2", re.compile(r"gpt[-_]?2|cerebras")),
    ("gpt_neox", re.compile(r"neox|pythia|stable-?lm|red-?pajama|oasst")),
)


class TypeChoice(NamedTuple):
    """A model type, what told it, and what should be said about that."""

    model_type: str
    source: TypeSource
    warnings: tuple[str, ...] = ()


def normal_type(model_type: str) -> str:
    """Return a model type as ctransformers calls it, however it was typed (`GPT-NeoX`).

    Raises:
        UsageError: There is no such type.
    """
    plain = re.sub("[^a-z0-9]", "", model_type.lower())
    known = {re.sub("[^a-z0-9]", "", name): name for name in MODEL_TYPES} | _ALIASES
    if plain not in known:
        raise UsageError(
            f"--model-type {model_type} is no type of a legacy file", fix=f"one of: {', '.join(MODEL_TYPES)}"
        )
    return known[plain]


def type_in_catalogue(family: str) -> str | None:
    """Return the model type that the catalogue knows of a family's legacy files, or None."""
    from llmrun.errors import ModelNotFoundError
    from llmrun.models.catalogue import find_family

    try:
        variants = find_family(family).variants
    except ModelNotFoundError:
        return None
    return next((variant.model_type for variant in variants if variant.model_type), None)


def choose_type(
    path: Path,
    model_types: tuple[str, ...],
    marks: Mapping[str, int],
    *,
    family: str | None,
    asked: str | None,
) -> TypeChoice:
    """Return the model type of a file.

    Args:
        path: The file.
        model_types: Those that its layout leaves.
        marks: The types whose tokens it has.
        family: Of the catalogue, or None.
        asked: What `--model-type` says, or None.

    Raises:
        ModelFileError: What was asked for is not what the file holds.
    """
    if asked is not None and asked not in model_types:
        raise ModelFileError(
            f"{path} is a {' or '.join(model_types)} by its tensors, and no {asked}", fix="leave out --model-type"
        )
    if len(model_types) == 1:
        return TypeChoice(model_types[0], TypeSource.HEADER)
    if asked is not None:
        return TypeChoice(asked, TypeSource.OPTION)
    marked = next((name for name in model_types if name in marks), None)
    if marked is not None:
        return TypeChoice(marked, TypeSource.HEADER)
    known = type_in_catalogue(family) if family is not None else None
    if known in model_types:
        return TypeChoice(str(known), TypeSource.CATALOGUE)
    lower = path.name.lower()
    for name, pattern in _IN_NAMES:
        if name in model_types and pattern.search(lower):
            return TypeChoice(name, TypeSource.FILE_NAME)
    first, *others = model_types
    warning = (
        f"a file of {first} looks like one of {' or '.join(others)}: taken for {first}; --model-type says otherwise"
    )
    return TypeChoice(first, TypeSource.ASSUMED, (warning,))
