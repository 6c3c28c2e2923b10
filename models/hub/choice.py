"""Which file of a repository is meant: pure decisions over file names, used for folders on disk and for the hub alike.

A name is matched as a file name first, then as a quantization (`Q4_K_M`, any case, as a whole word of the name).
With neither, the most useful quantization present is taken. A file split into parts counts as one model.
Projectors, importance matrices and bare vocabularies are GGUF files too, but no models: they are never chosen.
Refuses to choose between two files that answer equally well: the error lists them.
"""

import re
from collections.abc import Iterable, Sequence

from llmrun.errors import ModelFileError, ModelNotFoundError, UsageError
from llmrun.values import value

__all__ = ["GgufSet", "choose_gguf", "gguf_sets", "hugging_face_files", "is_pickle_only", "quantization_of"]

# Best balance of quality and size first; sizes far from 4 bits later.
PREFERENCE = (
    *("Q4_K_M", "Q4_0", "Q5_K_M", "Q8_0", "Q4_1", "Q4_K_S", "Q5_K_S", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4", "Q5_0"),
    *("Q5_1", "Q3_K_M", "Q3_K_L", "Q3_K_S", "IQ3_M", "Q2_K", "BF16", "F16", "F32"),
)
SHOWN_NAMES = 12

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])(I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_NOT_A_MODEL = re.compile(r"(^|[-._/])(mmproj|imatrix|ggml-vocab)", re.IGNORECASE)
_WEIGHTS = re.compile(r"model(-.+)?\.safetensors")
_MAKERS_OWN = re.compile(r"consolidated.*\.safetensors")
_FOLDER_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt", ".tiktoken")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


@value
class GgufSet:
    """One model in GGUF: a single file, or every part of a split one.

    Attributes:
        name: What the user may type to mean it: the file name, or the first part's.
        files: Paths inside the repository or folder, in order.
        quantization: As written in the name, upper case, or None.
        missing: Part numbers that are not there.
    """

    name: str
    files: tuple[str, ...]
    quantization: str | None
    missing: tuple[int, ...] = ()


def quantization_of(file_name: str) -> str | None:
    """Return the last quantization that a file name states, in upper case (`FP16` as `F16`), or None."""
    found = _QUANTIZATION.findall(file_name.rsplit("/", 1)[-1])
    return found[-1].upper().replace("FP16", "F16").replace("FP32", "F32") if found else None


def gguf_sets(paths: Iterable[str]) -> tuple[GgufSet, ...]:
    """Group the GGUF models among `paths`, sorted by name; parts of a split file make one set."""
    single: list[GgufSet] = []
    parts: dict[tuple[str, int], dict[int, str]] = {}
    for path in paths:
        if not path.lower().endswith(".gguf") or _NOT_A_MODEL.search(path):
            continue
        match = _SPLIT.fullmatch(path)
        if match:
            parts.setdefault((match["stem"], int(match["count"])), {})[int(match["number"])] = path
        else:
            single.append(GgufSet(name=path, files=(path,), quantization=quantization_of(path)))
    for (stem, count), numbered in parts.items():
        files = tuple(numbered[number] for number in sorted(numbered))
        # A count that cannot be true must not make a list of its length.
        missing = tuple(number for number in range(1, min(count, 1000) + 1) if number not in numbered)
        single.append(GgufSet(name=files[0], files=files, quantization=quantization_of(stem), missing=missing))
    return tuple(sorted(single, key=lambda entry: entry.name))


def choose_gguf(paths: Sequence[str], tag: str | None, where: str) -> GgufSet:
    """Choose the GGUF model that `tag` (a file name or a quantization) means, or the default one.

    Args:
        paths: Paths inside the repository or folder.
        tag: What the user typed after the colon, or None.
        where: The repository or folder, for messages.

    Raises:
        ModelNotFoundError: Nothing matches.
        UsageError: Several match equally well.
        ModelFileError: A part of the chosen split file is missing.
    """
    sets = gguf_sets(paths)
    chosen = _default(sets, where) if tag is None else _exact(paths, sets, tag) or _by_quantization(sets, tag, where)
    if chosen.missing:
        numbers = ", ".join(str(number) for number in chosen.missing[:SHOWN_NAMES])
        raise ModelFileError(f"{where}: {chosen.name} is one of several parts, and these are missing: {numbers}")
    return chosen


def hugging_face_files(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the files that make a Hugging Face folder (weights, configuration, tokenizer), or () if it is none.

    Only the top of the repository counts, and never a pickle or code.
    """
    top = sorted(path for path in paths if "/" not in path and path.lower().endswith(_FOLDER_SUFFIXES))
    if any(_WEIGHTS.fullmatch(path) for path in top):  # the same weights once more, as their makers use them
        top = [path for path in top if not _MAKERS_OWN.fullmatch(path)]
    whole = "config.json" in top and any(path.endswith(".safetensors") for path in top)
    return tuple(top) if whole else ()


def is_pickle_only(paths: Iterable[str]) -> bool:
    """Tell whether the only weights are pickles, which run code when they are loaded."""
    names = [path.lower() for path in paths]
    return any(name.endswith(_PICKLE_SUFFIXES) for name in names) and not any(
        name.endswith((".safetensors", ".gguf")) for name in names
    )


def _exact(paths: Sequence[str], sets: tuple[GgufSet, ...], tag: str) -> GgufSet | None:
    """Return what is called like this: the path, or the file name in any folder, in the same case or any."""
    for same in (_same_path, _same_name):
        named = [path for path in paths if same(path, tag)]
        # A file that the repository splits is still meant by its whole name.
        of_sets = [entry for entry in sets if any(same(path, tag) for path in (*entry.files, _whole_name(entry)))]
        if len(of_sets) == 1:
            return of_sets[0]
        if len(named) == 1 and not of_sets:
            return GgufSet(name=named[0], files=(named[0],), quantization=quantization_of(named[0]))
    return None


def _same_path(path: str, tag: str) -> bool:
    return path == tag


def _same_name(path: str, tag: str) -> bool:
    return path.rsplit("/", 1)[-1].lower() == tag.lower()


def _whole_name(entry: GgufSet) -> str:
    match = _SPLIT.fullmatch(entry.name)
    return f"{match['stem']}.gguf" if match else entry.name


def _by_quantization(sets: tuple[GgufSet, ...], tag: str, where: str) -> GgufSet:
    wanted = tag.upper()
    found = [entry for entry in sets if wanted in (entry.quantization, entry.name.upper().removesuffix(".GGUF"))]
    if not found:
        raise ModelNotFoundError(
            f'{where} has no file or quantization "{tag}"; it has {_listing(sets)}',
            fix="name one of them after a colon",
        )
    return _only(found, where)


def _default(sets: tuple[GgufSet, ...], where: str) -> GgufSet:
    if len(sets) == 1:
        return sets[0]
    for quantization in PREFERENCE:
        found = [entry for entry in sets if entry.quantization == quantization]
        if found:
            return _only(found, where)
    if not sets:
        raise ModelNotFoundError(f"{where} has no GGUF file")
    return _only(list(sets), where)


def _only(found: list[GgufSet], where: str) -> GgufSet:
    # Converters put variants into subfolders; the one at the top is the plain one.
    top = [entry for entry in found if "/" not in entry.name]
    best = top if len(top) == 1 else found
    if len(best) > 1:
        raise UsageError(
            f"{where} has several files that match: {_listing(tuple(found))}",
            fix="name one of them after a colon",
        )
    return best[0]


def _listing(sets: tuple[GgufSet, ...]) -> str:
    if not sets:
        return "no GGUF files"
    names = [entry.name for entry in sets]
    rest = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + rest
