"""What is kept of a GGUF's header is what reading it gives, and only as long as the file is the same."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import gguf_builder as build
import pytest

from llmrun.engines.selection import headers
from llmrun.engines.selection.headers import read_gguf_facts
from llmrun.errors import ModelFileError
from llmrun.models.gguf.info import read_gguf_info


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(tmp_path / "cache"))
    headers._memory.clear()
    yield tmp_path / "cache" / "headers"
    headers._memory.clear()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(build.build_gguf())
    return path


def test_what_is_kept_is_what_was_read(model: Path, cache: Path) -> None:
    first = read_gguf_facts(model, family="tiny")
    assert first.info == read_gguf_info(model, family="tiny")
    (kept,) = cache.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    headers._memory.clear()
    assert read_gguf_facts(model, family="tiny") == first
    assert read_gguf_facts(model).info.family is None


def test_it_is_really_kept(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_gguf_facts(model)
    headers._memory.clear()
    monkeypatch.setattr(headers, "_read", lambda *_: pytest.fail("the file was read again"))
    assert read_gguf_facts(model) == first


@pytest.mark.parametrize("remembered", [True, False])
def test_a_changed_file_is_read_again(model: Path, remembered: bool) -> None:
    before = read_gguf_facts(model)
    status = model.stat()
    data = bytearray(model.read_bytes())
    data[:4] = b"GGML"
    model.write_bytes(data)
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))  # as if nothing had happened
    if not remembered:
        headers._memory.clear()
    with pytest.raises(ModelFileError):
        read_gguf_facts(model)
    assert before.info.architecture == "llama"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"key": 1}', '{"key": "KEY", "value": {"facts": {}}}', "\0\0"])
def test_a_damaged_record_is_no_record(model: Path, cache: Path, text: str) -> None:
    first = read_gguf_facts(model)
    (kept,) = cache.iterdir()
    kept.write_text(text.replace("KEY", str(model.absolute())))
    headers._memory.clear()
    assert read_gguf_facts(model) == first


def test_a_record_of_another_version_is_no_record(model: Path, cache: Path) -> None:
    first = read_gguf_facts(model)
    (kept,) = cache.iterdir()
    document = json.loads(kept.read_text())
    document["value"]["identity"][0] = "0.0.0"
    document["value"]["facts"]["info"]["architecture"] = "another"
    kept.write_text(json.dumps(document))
    headers._memory.clear()
    assert read_gguf_facts(model) == first
