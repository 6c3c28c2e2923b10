"""`run --manifest` and `run --replay` through the real command."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_builder as build
import pytest

Run = Callable[..., Any]
ECHO = {"LLMRUN_ENGINE": "fake"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(build.build_gguf(build.llama_pairs(**{"llama.context_length": build.u32(4096)})))
    return path


def fake(answer: str) -> dict[str, str]:
    return ECHO | {"LLMRUN_FAKE": json.dumps({"answer": answer})}


def record(llmrun: Run, path: Path, *arguments: str | Path, env: dict[str, str] = ECHO, **more: Any) -> dict[str, Any]:
    result = llmrun("run", *arguments, "--manifest", path, env=env, **more)
    assert result.code == 0, result.errors
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_everything_that_was_given_is_written_and_repeated(llmrun: Run, model: Path, tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "a.txt").write_text("from a file\n")
    path = tmp_path / "m.json"
    made = record(
        llmrun,
        path,
        *(model, "asked", "--file", tmp_path / "a.txt", "--system", "Be brief.", "--raw"),
        *("--temperature", "0.25", "--stop", "never", "--max-tokens", "99", "--threads", "1"),
        stdin="gepipt é\n".encode(),
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    data = model.read_bytes()
    assert made["model"]["files"] == [
        {"name": "tiny.gguf", "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    ]
    assert made["answer"]["text"] == "from a file\n\ngepipt é\n\nasked"
    assert made["answer"]["sha256"] == hashlib.sha256(made["answer"]["text"].encode()).hexdigest()
    assert (
        made["options"]["sampling"] | {"temperature": 0.25, "max_tokens": 99, "stop": ["never"]}
        == (made["options"]["sampling"])
    )
    assert made["prompt"]["attached"][0]["path"] == str(tmp_path / "a.txt")
    assert made["prompt"]["attached"][1]["text"] == "gepipt é\n"
    again = llmrun("run", "--replay", path, "--json", env=ECHO | {"LLMRUN_TEMPERATURE": "1.5"})
    assert again.code == 0, again.errors
    document = json.loads(again.stdout)
    assert document["text"] == made["answer"]["text"]
    assert document["sampling"] == made["options"]["sampling"]
    assert document["replay"] == {
        "of": made["created"],
        "identical": True,
        "first_difference": None,
        "differences": [],
    }
    assert "llmrun: replay: the answer is identical" in again.errors


def test_a_seed_that_nobody_gave_is_kept(llmrun: Run, model: Path, tmp_path: Path) -> None:
    made = record(llmrun, tmp_path / "m.json", model, "hi", "--raw")
    document = json.loads(llmrun("run", "--replay", tmp_path / "m.json", "--json").stdout)
    assert document["sampling"]["seed"] == made["options"]["sampling"]["seed"]
    assert document["sampling"]["repeatable"] is True


def test_another_answer_has_its_own_exit_code_and_place(llmrun: Run, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    record(llmrun, path, model, "hi", "--raw", env=fake("It is blue."))
    result = llmrun("run", "--replay", path, "--manifest", tmp_path / "n.json", env=fake("It is grey."))
    assert (result.code, result.text) == (11, "It is grey.\n")
    assert "llmrun: replay: the answer differs from character 7 on: was 'blue.', is 'grey.'" in result.errors
    document = json.loads(llmrun("run", "--replay", path, "--json", env=fake("It is grey.")).stdout)
    assert (document["replay"]["identical"], document["replay"]["first_difference"]) == (False, 6)
    assert json.loads((tmp_path / "n.json").read_text())["answer"]["text"] == "It is grey."
    quiet = llmrun("run", "--replay", path, "--quiet", env=fake("It is grey."))
    assert (quiet.code, quiet.errors) == (11, "")


def test_what_changed_is_said(llmrun: Run, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    (tmp_path / "a.txt").write_text("one")
    record(llmrun, path, model, "hi", "--raw", "--file", tmp_path / "a.txt", env=fake("same"))
    (tmp_path / "a.txt").write_text("two")
    model.write_bytes(build.build_gguf(build.llama_pairs(**{"llama.context_length": build.u32(2048)})))
    result = llmrun("run", "--replay", path, env=fake("same"))
    assert result.code == 0
    assert "replay: model file tiny.gguf (sha256): was " in result.errors
    assert f"replay: {tmp_path / 'a.txt'} (sha256): was " in result.errors
    assert "replay: plan.context_length: was 4,096, is 2,048" in result.errors
    (tmp_path / "a.txt").unlink()
    gone = llmrun("run", "--replay", path, env=fake("same"))
    assert gone.code == 2
    assert "a.txt cannot be read" in gone.errors


def test_the_model_may_be_elsewhere_and_the_folder_another(llmrun: Run, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    record(llmrun, path, model, "hi", "--raw")
    moved = model.rename(tmp_path / "moved.gguf")
    assert llmrun("run", "--replay", path, env=ECHO).code == 3
    result = llmrun("run", moved, "--replay", path, env=ECHO)
    assert (result.code, result.text) == (0, "hi\n"), result.errors
    assert "are the same" in result.errors


def test_long_standard_input_is_wanted_again(llmrun: Run, model: Path, tmp_path: Path) -> None:
    path, long = tmp_path / "m.json", b"x" * 70_000
    made = record(llmrun, path, model, "--raw", "--on-overflow", "drop-oldest", stdin=long)
    assert made["prompt"]["attached"][0]["text"] is None
    without = llmrun("run", "--replay", path)
    assert without.code == 2
    assert "70,000 bytes" in without.errors
    assert llmrun("run", "--replay", path, stdin=long).code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(["--replay", "{m}", "--temperature", "1"], 2, "--temperature cannot be given", id="an option"),
        pytest.param(["{model}", "hello", "--replay", "{m}"], 2, "a prompt cannot be given", id="a prompt"),
        pytest.param(["--replay", "{m}x"], 2, "cannot be read", id="no such file"),
        pytest.param(["--replay", "{model}"], 4, "is no manifest", id="a model"),
        pytest.param(["{model}", "hi", "--manifest", "/no/such/folder/m.json"], 2, "no folder", id="no such folder"),
        pytest.param(["{model}", "hi", "--dry-run", "--manifest", "{m}"], 2, "--dry-run gives none", id="dry run"),
        pytest.param([], 2, "Missing argument 'MODEL'", id="neither"),
    ],
)
def test_what_cannot_be_repeated(
    llmrun: Run, model: Path, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    record(llmrun, tmp_path / "m.json", model, "hi", "--raw")
    filled = [argument.format(m=tmp_path / "m.json", model=model) for argument in arguments]
    result = llmrun("run", *filled, env=ECHO)
    assert (result.code, result.stdout) == (code, b"")
    assert said in result.errors


def test_a_manifest_cannot_allow_what_runs_code(llmrun: Run, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    made = record(llmrun, path, model, "hi", "--raw")
    made["options"]["plan"]["remote_code"] = True
    path.write_text(json.dumps(made))
    refused = llmrun("run", "--replay", path)
    assert refused.code == 9
    assert "add --trust-remote-code" in refused.errors
    assert llmrun("run", "--replay", path, "--trust-remote-code").code == 0


@pytest.mark.engine
@pytest.mark.parametrize("seed", [[], ["--seed", "3"]])
def test_a_real_answer_is_repeated(llmrun: Run, real_model: Path, tmp_path: Path, seed: list[str]) -> None:
    path = tmp_path / "m.json"
    made = record(llmrun, path, real_model, "Name three colours.", "--max-tokens", "24", *seed, env={})
    assert made["engine"]["name"] == "llama-cpp"
    assert made["engine"]["version"]
    assert len(made["template"]["sha256"]) == 64
    again = llmrun("run", "--replay", path)
    assert again.code == 0, again.errors
    assert again.text.rstrip("\n") == made["answer"]["text"].rstrip("\n")
    assert "model, template, engine, machine and prompt are the same" in again.errors
