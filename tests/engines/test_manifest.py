"""Manifests as files, what is wrong with them, and what differs between two."""

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmrun.engines.manifest.compare import compare, describe_difference, first_difference
from llmrun.engines.manifest.file import check_target, read_manifest, write_manifest
from llmrun.engines.manifest.values import (
    AnswerRecord,
    AttachedRecord,
    EngineRecord,
    FileRecord,
    MachineRecord,
    Manifest,
    ModelRecord,
    Options,
    PlanRecord,
    PromptRecord,
    TemplateRecord,
)
from llmrun.engines.memory.types import PlanRequest
from llmrun.engines.types import EngineName, FinishReason, SamplingOptions
from llmrun.errors import ModelFileError, StorageError, UsageError

FILES = (FileRecord(name="a.gguf", size_bytes=7, sha256="a" * 64), FileRecord(name="b.gguf", size_bytes=8, sha256="b"))


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        created="2026-01-02T03:04:05Z",
        llmrun="1.0",
        model=ModelRecord(
            reference="org/m", path="/m", format="gguf", architecture="llama", quantization=None, files=FILES
        ),
        draft_files=(),
        template=TemplateRecord(source="GGUF header", sha256="c" * 64),
        engine=EngineRecord(name=EngineName.LLAMA_CPP, version="0.3", build=(("compiler", "clang 19"), ("cpu", "x"))),
        machine=MachineRecord(
            system="linux",
            python_version="3.12",
            cpu="A",
            architecture="x86_64",
            isa_flags=("avx", "avx2"),
            physical_cores=2,
            usable_threads=2,
            memory_bytes=1 << 34,
            gpus=(),
        ),
        options=Options(
            engine=None,
            draft=None,
            system="Be brief. \udc80",
            raw=False,
            on_overflow="drop-middle",
            plan=PlanRequest(threads=2),
            sampling=SamplingOptions(
                temperature=0.5, top_p=1.0, top_k=0, min_p=0.0, repeat_penalty=1.0, max_tokens=9, seed=4, stop=("x",)
            ),
        ),
        plan=PlanRecord(context_length=4096, threads=2, gpu_layers=0, kv_type="f16"),
        prompt=PromptRecord(
            typed="hi",
            attached=(AttachedRecord(path=None, size_bytes=3, sha256="d" * 64, text="é"),),
            rendered_sha256="e" * 64,
        ),
        answer=AnswerRecord(
            text="hello", sha256="f" * 64, prompt_tokens=3, completion_tokens=2, finish_reason=FinishReason.STOP
        ),
    )


def test_what_is_written_is_read(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text("something older")
    write_manifest(manifest, path)
    assert read_manifest(path) == manifest
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_leaves_what_was_there(manifest: Manifest, tmp_path: Path) -> None:
    for place in (tmp_path / "none" / "m.json", tmp_path):
        with pytest.raises(UsageError):
            check_target(place)
    with pytest.raises(StorageError):
        write_manifest(manifest, tmp_path / "none" / "m.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError):
        write_manifest(manifest, tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def changed(document: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    """Return the document with one field set, or left out (`...`)."""
    copy = json.loads(json.dumps(document))
    *way, last = field.split(".")
    place: Any = copy
    for step in way:
        place = place[int(step)] if step.isdigit() else place[step]
    key = int(last) if last.isdigit() else last
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return copy  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        pytest.param("kind", "other", "kind is not", id="something else"),
        pytest.param("version", 2, "a manifest of version 2", id="a later version"),
        pytest.param("version", ..., "version None", id="no version"),
        pytest.param("model", ..., "model is missing", id="no model"),
        pytest.param("model", [], "model wants an object, found an array", id="a model that is none"),
        pytest.param("model.files.0.sha256", 5, "model.files[0].sha256 wants a text, found the number 5", id="number"),
        pytest.param("model.files.1", None, "model.files[1] wants an object, found null", id="null"),
        pytest.param("engine.name", "ollama", "engine.name wants one of llama-cpp", id="engine"),
        pytest.param("engine.build", [["a"]], "engine.build[0] wants 2 values, found 1", id="pairs"),
        pytest.param("answer.finish_reason", "bored", "answer.finish_reason wants one of stop", id="reason"),
        pytest.param("options.on_overflow", "stop", "options.on_overflow wants one of error", id="literal"),
        pytest.param("options.raw", 1, "options.raw wants true or false, found the number 1", id="a number for truth"),
        pytest.param("options.sampling.seed", "7", "options.sampling.seed wants a whole number", id="text"),
        pytest.param("options.sampling.seed", True, "options.sampling.seed wants a whole number", id="truth"),
        pytest.param("options.sampling.seed", -1, "options.sampling.seed has a value", id="seed -1"),
        pytest.param("options.sampling.temperature", float("nan"), "options.sampling.temperature has", id="NaN"),
        pytest.param("options.sampling.repeat_penalty", 0, "options.sampling.repeat_penalty has", id="penalty 0"),
        pytest.param("options.sampling.stop", [""], "options.sampling.stop has", id="empty stop"),
        pytest.param("options.plan.kv_type", "f8", "options.plan.kv_type has", id="KV type"),
        pytest.param("options.plan.threads", 10**6, "options.plan.threads has", id="threads"),
        pytest.param("plan.context_length", 0, "plan.context_length has", id="no context"),
        pytest.param("prompt.attached.0.text", {}, "prompt.attached[0].text wants a text, found an object", id="union"),
    ],
)
def test_what_is_wrong_is_named(manifest: Manifest, tmp_path: Path, field: str, value: Any, said: str) -> None:
    path = tmp_path / "m.json"
    write_manifest(manifest, path)
    path.write_text(json.dumps(changed(json.loads(path.read_text("utf-8", "surrogatepass")), field, value)))
    with pytest.raises(ModelFileError) as caught:
        read_manifest(path)
    assert said in caught.value.message


def test_fields_that_are_not_known_are_passed_over(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_manifest(manifest, path)
    document = json.loads(path.read_text("utf-8", "surrogatepass"))
    del document["options"]["plan"]["lookup"]  # it has a default
    path.write_text(json.dumps(changed(changed(document, "new", 1), "model.new", {})))
    assert read_manifest(path) == manifest


@pytest.mark.parametrize(
    ("content", "error"),
    [
        pytest.param(b"", ModelFileError, id="empty"),
        pytest.param(b"[]", ModelFileError, id="an array"),
        pytest.param(b"\xff", ModelFileError, id="not UTF-8"),
        pytest.param(b"[" * 100_000, ModelFileError, id="deep"),
        pytest.param(None, UsageError, id="not there"),
    ],
)
def test_files_that_are_no_manifest(tmp_path: Path, content: bytes | None, error: type[Exception]) -> None:
    path = tmp_path / "m.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error):
        read_manifest(path)
    with pytest.raises(UsageError):
        read_manifest(tmp_path)


def test_the_same_has_no_differences(manifest: Manifest) -> None:
    later = replace(manifest, created="2027-01-01T00:00:00Z")
    assert compare(manifest, later) == ()


def test_every_kind_of_difference_is_found(manifest: Manifest) -> None:
    now = replace(
        manifest,
        llmrun="2.0",
        model=replace(manifest.model, files=(FILES[0], replace(FILES[1], sha256="z"))),
        template=TemplateRecord(source="catalogue", sha256=None),
        engine=replace(manifest.engine, version="0.4", build=(("compiler", "gcc 14"), ("cpu", "x"))),
        machine=replace(manifest.machine, isa_flags=("avx", "avx512f"), memory_bytes=1),
        plan=replace(manifest.plan, context_length=1024),
        prompt=replace(
            manifest.prompt,
            rendered_sha256="0",
            attached=(replace(manifest.prompt.attached[0], sha256="1"),),
        ),
    )
    found = {difference.field: (difference.then, difference.now) for difference in compare(manifest, now)}
    assert found == {
        "model file b.gguf (sha256)": ("b", "z"),
        "template.sha256": ("c" * 64, "none"),
        "standard input (sha256)": ("d" * 64, "1"),
        "prompt as the model sees it (sha256)": ("e" * 64, "0"),
        "engine.version": ("0.3", "0.4"),
        "engine.build.compiler": ("clang 19", "gcc 14"),
        "plan.context_length": ("4,096", "1,024"),
        "machine.memory_bytes": (f"{1 << 34:,}", "1"),
        "machine.isa_flags": ("avx2", "avx512f"),
        "llmrun": ("1.0", "2.0"),
    }


def test_a_file_that_was_renamed_is_the_same(manifest: Manifest) -> None:
    renamed = replace(manifest.model, path="/n", files=tuple(replace(file, name="x" + file.name) for file in FILES))
    assert compare(manifest, replace(manifest, model=renamed)) == ()


@pytest.mark.parametrize(
    ("then", "now", "place", "said"),
    [
        pytest.param("abc", "abc", None, "", id="same"),
        pytest.param("abc", "abd", 2, "from character 3 on: was 'c', is 'd'", id="another end"),
        pytest.param("abc", "ab", 2, "from character 3 on: was 'c', is at its end", id="shorter"),
        pytest.param("", "x" * 99, 0, f"from character 1 on: was at its end, is '{'x' * 30}'…", id="from nothing"),
    ],
)
def test_where_answers_part(then: str, now: str, place: int | None, said: str) -> None:
    assert first_difference(then, now) == place
    if place is not None:
        assert describe_difference(then, now, place) == said
