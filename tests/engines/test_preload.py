"""Weights that are read before their plan is known: which ones, and what becomes of them."""

from pathlib import Path
from typing import Any

import gguf_builder as build
import pytest

from llmrun.engines import preload as module
from llmrun.engines.client import WorkerClient
from llmrun.engines.llama_cpp.engine import LlamaCppEngine
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.errors import ModelFileError
from llmrun.hardware import memory
from llmrun.hardware.types import MemoryInfo


class Listener:
    """Hears what a worker would be told."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def preload(self, path: str) -> None:
        self.paths.append(path)


def asked(reference: object) -> list[str]:
    listener = Listener()
    module.preload(listener, str(reference))  # type: ignore[arg-type]
    return listener.paths


def test_a_whole_file_is_read_at_once(tmp_path: Path) -> None:
    path = build.write_tiny_llama_gguf(tmp_path / "model.gguf")
    assert asked(path) == [str(path)]


def test_what_is_not_whole_or_not_here_waits_for_the_command(tmp_path: Path) -> None:
    path = build.write_tiny_llama_gguf(tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes()[:-1])
    (tmp_path / "text.gguf").write_text("no model")
    assert [asked(name) for name in (path, tmp_path / "text.gguf", tmp_path / "none.gguf", "org/none", tmp_path)] == [
        [],
        [],
        [],
        [],
        [],
    ]


def test_a_model_that_takes_much_of_the_free_memory_waits_for_its_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build.write_tiny_llama_gguf(tmp_path / "model.gguf")
    size = path.stat().st_size
    for available, expected in ((5 * size, [str(path)]), (3 * size, [])):
        info = MemoryInfo(total_bytes=100 * size, available_bytes=available, limit_bytes=None, limit_source=None)
        monkeypatch.setattr(memory, "probe_memory", lambda info=info: (info, ()))
        assert asked(path) == expected


def plan_of(path: Path, **changes: Any) -> LoadPlan:
    return LoadPlan(engine=EngineName.LLAMA_CPP, model_path=str(path), context_length=256, threads=1, **changes)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("name", "changes", "loads"),
    [
        pytest.param("one.gguf", {}, 1, id="as it was read"),
        pytest.param("other.gguf", {}, 2, id="another file"),
        pytest.param("one.gguf", {"vocabulary_only": True}, 2, id="otherwise"),
    ],
)
def test_a_plan_takes_what_was_read_if_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any], loads: int
) -> None:
    for each in ("one.gguf", "other.gguf"):
        build.write_tiny_llama_gguf(tmp_path / each)
    engine = LlamaCppEngine()
    api, calls = engine._native.api, []
    really_load, really_free = api.llama_model_load_from_file, api.llama_model_free

    def load(path: bytes, params: Any) -> Any:
        model = really_load(path, params)
        calls.append(("load", model))
        return model

    def free(model: Any) -> None:
        calls.append(("free", model))
        really_free(model)

    monkeypatch.setattr(api, "llama_model_load_from_file", load)
    monkeypatch.setattr(api, "llama_model_free", free)
    engine.preload(str(tmp_path / "one.gguf"), lambda _fraction: None)
    engine.load(plan_of(tmp_path / name, **changes)).close()
    loaded = [model for what, model in calls if what == "load"]
    assert len(loaded) == loads
    assert sorted(loaded) == sorted(model for what, model in calls if what == "free")


@pytest.mark.engine
def test_the_worker_says_of_a_broken_file_what_it_says_without(tmp_path: Path) -> None:
    broken = build.write_tiny_llama_gguf(tmp_path / "broken.gguf")
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    worker = WorkerClient(EngineName.LLAMA_CPP)
    try:
        worker.preload(str(broken))
        with pytest.raises(ModelFileError):
            worker.load(plan_of(broken))
    finally:
        worker.close()
