"""What a file really is, from its first bytes."""

import os
import socket
import struct
from pathlib import Path

import pytest

from llmrun.errors import ModelFileError, ModelNotFoundError
from llmrun.models.sniff import FileKind, identify, sniff

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 98362432\n"


@pytest.mark.parametrize(
    ("head", "kind", "words"),
    [
        pytest.param(b"", FileKind.EMPTY, "an empty file", id="empty"),
        pytest.param(b"GGUF" + struct.pack("<I", 3), FileKind.GGUF, "GGUF file (version 3)", id="gguf-3"),
        pytest.param(b"GGUF" + struct.pack(">I", 3), FileKind.GGUF, "version 3, big-endian", id="gguf-big-endian"),
        pytest.param(b"GGUF", FileKind.GGUF, "first bytes of a GGUF", id="gguf-cut-after-magic"),
        pytest.param(struct.pack("<I", 0x67676D6C) + b"\1" * 9, FileKind.GGML, "legacy GGML file (ggml", id="ggml"),
        pytest.param(struct.pack("<I", 0x67676D66) + b"\1" * 9, FileKind.GGML, "ggmf", id="ggmf"),
        pytest.param(struct.pack("<I", 0x67676A74) + b"\1" * 9, FileKind.GGML, "ggjt", id="ggjt"),
        pytest.param(
            struct.pack("<Q", 20) + b'{"a":{"dtype":"F32"}}', FileKind.SAFETENSORS, "safetensors", id="safetensors"
        ),
        pytest.param(b"PK\x03\x04" + bytes(26) + b"archive/data.pkl", FileKind.PICKLE, "PyTorch", id="torch-zip"),
        pytest.param(b"PK\x03\x04" + bytes(26) + b"model.gguf", FileKind.ZIP, "a zip archive", id="zip"),
        pytest.param(b"\x80\x02}q\x00.", FileKind.PICKLE, "pickle", id="old-pickle"),
        pytest.param(b"\x1f\x8b\x08\x00", FileKind.GZIP, "gzip", id="gzip"),
        pytest.param(LFS, FileKind.LFS_POINTER, "git-LFS pointer", id="git-lfs"),
        pytest.param(b"\n<!DOCTYPE html><html>", FileKind.HTML, "a web page", id="html"),
        pytest.param(b'{"error": "Repository not found"}', FileKind.JSON, "JSON", id="json"),
        pytest.param(b"Not found\n", FileKind.TEXT, "a text file", id="text"),
        pytest.param("é".encode() * 300, FileKind.TEXT, "a text file", id="text-cut-inside-a-character"),
        pytest.param(bytes(64), FileKind.UNKNOWN, "zero bytes", id="zeros"),
        pytest.param(b"\x7fELF\x02\x01\x01\x00", FileKind.UNKNOWN, "unknown kind", id="elf"),
    ],
)
def test_identify(head: bytes, kind: FileKind, words: str) -> None:
    found = identify(head[:511], len(head))
    assert found.kind is kind
    assert words in found.description


def test_sniff_reads_the_version_and_size(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 2) + bytes(100))
    found = sniff(path)
    assert (found.kind, found.version, found.big_endian, found.size_bytes) == (FileKind.GGUF, 2, False, 108)


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(LFS)
    (tmp_path / "m.gguf").symlink_to(tmp_path / "blob")
    assert sniff(tmp_path / "m.gguf").kind is FileKind.LFS_POINTER


@pytest.mark.parametrize("name", ["missing.gguf", "file/below.gguf", "nul\0.gguf"])
def test_a_path_that_is_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ModelNotFoundError):
        sniff(tmp_path / name)


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is a folder"):
        sniff(tmp_path)


def test_a_fifo_is_refused_and_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "fifo.gguf"
    os.mkfifo(path)
    with pytest.raises(ModelFileError, match="named pipe"):
        sniff(path)


def test_a_device() -> None:
    with pytest.raises(ModelFileError, match="a device"):
        sniff(Path("/dev/zero"))


def test_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.gguf")
        with pytest.raises(ModelFileError, match="a socket"):
            sniff(tmp_path / "s.gguf")
