"""`llmrun bench --plot` through the real command."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmrun.cli.bench.plot import write_plot
from llmrun.errors import StorageError

FAKE = ("--engine", "fake", "-p", "8", "-n", "4", "-r", "2", "--no-limits", "--no-cold-start")
ENV = {"LLMRUN_FAKE": json.dumps({"answer": "abc", "token_seconds": 0.001, "prefill_seconds": 0.01})}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        pytest.param(("-d", "0,16,32"), ("tokens in the context", "fake<"), id="by depth"),
        pytest.param(("-b", "1,2"), ("requests at once",), id="by requests at once"),
        pytest.param((), ("fake", "prefill", "decode"), id="bars"),
    ],
)
def test_a_picture_of_what_was_swept(
    llmrun: Callable[..., Any], real_model: Path, tmp_path: Path, more: tuple[str, ...], words: tuple[str, ...]
) -> None:
    file = tmp_path / "picture.svg"
    done = llmrun("bench", real_model, *FAKE, *more, "--plot", file, "--output", "json", env=ENV)
    assert done.code == 0, done.errors
    document = json.loads(done.stdout)
    drawn = file.read_text()
    for word in (*words, "tokens/s", real_model.name):
        assert word in drawn
    assert "limit" not in drawn  # none was measured
    again = tmp_path / "again.svg"
    write_plot(document, again)
    assert again.read_text() == drawn
    for row in document["rows"]:
        row["memory_bandwidth_share"] = 0.5
    write_plot(document, again)
    assert "limit" in again.read_text()


def test_png_too(llmrun: Callable[..., Any], real_model: Path, tmp_path: Path) -> None:
    assert llmrun("bench", real_model, *FAKE, "--plot", tmp_path / "p.png", env=ENV).code == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_names_are_not_read_as_mathematics(llmrun: Callable[..., Any], real_model: Path, tmp_path: Path) -> None:
    names = (r"$\no$.gguf", "_模型.gguf", "no text \udcff.gguf")
    for name in names:
        shutil.copy(real_model, tmp_path / name)
    file = tmp_path / "picture.svg"
    sizes = ("-d", "0,16", "-p", "8,12")
    done = llmrun("bench", *(tmp_path / name for name in names), *FAKE, *sizes, "--plot", file, env=ENV)
    assert done.code == 0, done.errors
    assert "Warning" not in done.errors
    drawn = file.read_text()
    for name in names:
        for prompt in (8, 12):  # each a line of its own
            shown = re.escape(name.replace("\udcff", "?"))
            assert re.search(rf"fake, {shown}, prompt {prompt}<", drawn)


def test_a_picture_that_cannot_be_written_leaves_the_old_one(
    llmrun: Callable[..., Any], real_model: Path, tmp_path: Path
) -> None:
    done = llmrun("bench", real_model, *FAKE, "--output", "json", env=ENV)
    file = tmp_path / "picture.svg"
    file.write_text("before")
    (tmp_path / f".picture.svg.{os.getpid()}.part").mkdir()  # where it is written first
    with pytest.raises(StorageError, match="cannot be written"):
        write_plot(json.loads(done.stdout), file)
    assert file.read_text() == "before"


@pytest.mark.parametrize("name", ["picture.gif", "picture", "none/picture.svg", "folder.svg"])
def test_what_cannot_be_drawn_is_refused_before_anything_is_measured(
    llmrun: Callable[..., Any], real_model: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder.svg").mkdir()
    done = llmrun("bench", real_model, *FAKE, "--plot", tmp_path / name, env=ENV)
    assert done.code == 2
    assert "--plot" in done.errors
    assert "measuring" not in done.errors


def test_when_everything_failed_that_is_what_is_said(
    llmrun: Callable[..., Any], real_model: Path, tmp_path: Path
) -> None:
    env = {"LLMRUN_FAKE": json.dumps({"load_error": "not today"})}
    done = llmrun("bench", real_model, *FAKE, "--plot", tmp_path / "p.svg", env=env)
    assert done.code == 6
    assert "not today" in done.errors
