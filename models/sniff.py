"""Tell what a file really is from its first bytes, so that a refusal can say more than "not a model".

People meet the same few mistakes: a git-LFS pointer instead of the weights, an error page saved under the model's
name, a download that stopped at once. Each has its own way out, and this module names it. It opens regular files only:
opening a FIFO waits for a writer for ever, and opening a device may do anything.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from llmrun.errors import ModelFileError, ModelNotFoundError

__all__ = ["FileKind", "Sniffed", "identify", "open_regular", "sniff"]

_HEAD_BYTES = 512
# Source: the magics of llama.cpp before August 2023, as the little-endian numbers 0x67676d6c ('ggml'), and so on.
_LEGACY_MAGICS = {
    b"lmgg": "ggml",
    b"fmgg": "ggmf",
    b"tjgg": "ggjt",
    b"ccgg": "ggcc",
    b"algg": "ggla",
}


class FileKind(StrEnum):
    """What a file can turn out to be."""

    EMPTY = "empty"
    GGUF = "gguf"
    GGML = "ggml"
    SAFETENSORS = "safetensors"
    ZIP = "zip"
    PICKLE = "pickle"
    GZIP = "gzip"
    LFS_POINTER = "git-lfs pointer"
    HTML = "html"
    JSON = "json"
    TEXT = "text"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sniffed:
    """What a file is.

    Attributes:
        kind: The closed set to branch on.
        description: A noun phrase for messages: `a git-LFS pointer (…)`.
        fix: What mends it, or None.
        size_bytes: Size of the file.
        version: Version number of a GGUF, None for other kinds.
        big_endian: Whether a GGUF has its numbers in big-endian order.
    """

    kind: FileKind
    description: str
    fix: str | None = None
    size_bytes: int
    version: int | None = None
    big_endian: bool = False


def sniff(path: Path) -> Sniffed:
    """Look at the first 512 bytes of a regular file.

    Raises:
        ModelNotFoundError: There is no such path.
        ModelFileError: It is a folder, FIFO, device or socket, or cannot be read.
    """
    descriptor, size_bytes = open_regular(path)
    try:
        head = os.read(descriptor, _HEAD_BYTES)
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error
    finally:
        os.close(descriptor)
    return identify(head, size_bytes)


def open_regular(path: Path) -> tuple[int, int]:
    """Open a regular file for reading and return its descriptor and size in bytes; nothing else is ever opened.

    Raises:
        ModelNotFoundError: There is no such path.
        ModelFileError: It is a folder, FIFO, device or socket, or may not be read.
    """
    try:
        _check_regular(path, os.stat(path))  # noqa: PTH116 - Path.stat turns some bad names into a bare ValueError too
        # O_NONBLOCK: if the path became a FIFO after it was looked at, opening it still does not wait.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelNotFoundError(f"there is no file {path}", fix="llmrun models list") from error
    except OSError as error:
        raise ModelFileError(f"cannot open {path}: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the name
        raise ModelNotFoundError(f"{str(path)!r} cannot be the name of a file: {error}") from error
    status = os.fstat(descriptor)
    try:
        _check_regular(path, status)
    except ModelFileError:
        os.close(descriptor)
        raise
    return descriptor, status.st_size


def _check_regular(path: Path, status: os.stat_result) -> None:
    mode = status.st_mode
    if stat.S_ISREG(mode):
        return
    names = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe (FIFO)"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    what = next((name for test, name in names if test(mode)), "not a regular file")
    raise ModelFileError(
        f"{path} is {what}, and a model must be a regular file",
        fix="name the .gguf file itself; copy a stream into a file first",
    )


def identify(head: bytes, size_bytes: int) -> Sniffed:
    """Tell what a file is from its first bytes (512 are enough) and its size."""
    for test in (_as_empty, _as_gguf, _as_weights, _as_archive, _as_text):
        found = test(head, size_bytes)
        if found is not None:
            return found
    return Sniffed(
        kind=FileKind.UNKNOWN,
        description="a binary file of an unknown kind" if any(head) else "a file that begins with zero bytes only",
        fix="download the file again, and check its name",
        size_bytes=size_bytes,
    )


def _as_empty(head: bytes, size_bytes: int) -> Sniffed | None:
    if size_bytes and head:
        return None
    return Sniffed(
        kind=FileKind.EMPTY, description="an empty file", fix="download the file again", size_bytes=size_bytes
    )


def _as_gguf(head: bytes, size_bytes: int) -> Sniffed | None:
    if head[:4] != b"GGUF":
        return None
    if len(head) < 8:
        return Sniffed(
            kind=FileKind.GGUF,
            description="the first bytes of a GGUF file",
            fix="download the file again",
            size_bytes=size_bytes,
        )
    little = int.from_bytes(head[4:8], "little")
    # A version number is small: if the low half is empty, the file counts from the other end.
    big_endian = little & 0xFFFF == 0 and little != 0
    version = int.from_bytes(head[4:8], "big") if big_endian else little
    order = ", big-endian" if big_endian else ""
    return Sniffed(
        kind=FileKind.GGUF,
        description=f"a GGUF file (version {version}{order})",
        size_bytes=size_bytes,
        version=version,
        big_endian=big_endian,
    )


def _as_weights(head: bytes, size_bytes: int) -> Sniffed | None:
    legacy = _LEGACY_MAGICS.get(head[:4])
    if legacy is not None:
        return Sniffed(
            kind=FileKind.GGML,
            description=f"a legacy GGML file ({legacy}, the format before GGUF)",
            fix="run it with --engine ctransformers, or take a GGUF of the model",
            size_bytes=size_bytes,
        )
    # An 8-byte length, then that many bytes of JSON.
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= max(size_bytes - 8, 2):
        return Sniffed(
            kind=FileKind.SAFETENSORS,
            description="a safetensors file",
            fix="name its folder instead, to run it with the pytorch or vllm engine",
            size_bytes=size_bytes,
        )
    return None


def _as_archive(head: bytes, size_bytes: int) -> Sniffed | None:
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        torch = b"data.pkl" in head or b"/version" in head or b"archive/" in head
        what = "a PyTorch checkpoint (a zip with a pickle inside)" if torch else "a zip archive"
        fix = "use the model's safetensors or GGUF files" if torch else "unpack it, and name the .gguf file inside"
        kind = FileKind.PICKLE if torch else FileKind.ZIP
        return Sniffed(kind=kind, description=what, fix=fix, size_bytes=size_bytes)
    if head[:2] == b"\x1f\x8b":
        return Sniffed(
            kind=FileKind.GZIP,
            description="a gzip archive",
            fix="unpack it (gunzip), and name the file inside",
            size_bytes=size_bytes,
        )
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and len(head) > 2:
        return Sniffed(
            kind=FileKind.PICKLE,
            description="a Python pickle (an old PyTorch checkpoint)",
            fix="use the model's safetensors or GGUF files",
            size_bytes=size_bytes,
        )
    return None


def _as_text(head: bytes, size_bytes: int) -> Sniffed | None:
    if b"\0" in head:
        return None
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # a character cut by the end of the sample is still text
            return None
        text = head[: error.start].decode("utf-8")
    if any(ord(character) < 32 and character not in "\t\n\r\f\x1b" for character in text):
        return None
    start = text.lstrip("\ufeff \t\r\n").lower()
    tests: tuple[tuple[Callable[[str], bool], FileKind, str, str], ...] = (
        (
            lambda begin: begin.startswith("version https://git-lfs.github.com/spec/"),
            FileKind.LFS_POINTER,
            "a git-LFS pointer (the real file was not fetched)",
            "git lfs pull, or download the file itself",
        ),
        (
            lambda begin: begin.startswith(("<!doctype html", "<html", "<head", "<?xml")),
            FileKind.HTML,
            "a web page (a login or error page, most likely)",
            "download the file itself: on the hub its address has /resolve/ in place of /blob/",
        ),
        (
            lambda begin: begin.startswith(("{", "[")),
            FileKind.JSON,
            "a JSON file",
            "name the .gguf file, or the model's folder",
        ),
        (lambda _: True, FileKind.TEXT, "a text file", "name the .gguf file"),
    )
    for test, kind, description, fix in tests:
        if test(start):
            return Sniffed(kind=kind, description=description, fix=fix, size_bytes=size_bytes)
    return None
