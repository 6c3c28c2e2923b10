"""`llmrun config`: where the file is, what every option is set to, and by what."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def config(environment: dict[str, str]) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = Path(environment["XDG_CONFIG_HOME"], "llmrun", "config.toml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def shown(llmrun: Run, *arguments: str, env: dict[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Return the settings of every command, by option."""
    result = llmrun("config", "show", *arguments, "--json", env=env)
    assert result.code == 0, result.errors
    commands = json.loads(result.stdout)["commands"]
    return {f"{name} {setting['option']}": setting for name, settings in commands.items() for setting in settings}


def test_the_path_is_printed_whether_it_is_there_or_not(
    llmrun: Run, environment: dict[str, str], config: Callable[[str], Path]
) -> None:
    expected = Path(environment["XDG_CONFIG_HOME"], "llmrun", "config.toml")
    assert llmrun("config", "path").text == f"{expected}\n"
    config("this is no TOML")
    assert llmrun("config", "path").text == f"{expected}\n"
    assert llmrun("config", "path", env={"LLMRUN_CONFIG": "/x/y.toml"}).text == "/x/y.toml\n"


def test_every_value_and_where_it_comes_from(llmrun: Run, config: Callable[[str], Path]) -> None:
    path = config('quiet = true\ntop-k = 7\n[run]\ntop-k = 8\nstop = ["a", "b"]\n[models.pull]\noffline = true\n')
    found = shown(llmrun, env={"LLMRUN_TOP_P": "0.5", "LLMRUN_QUIET": "0"})
    said = {name: (setting["value"], setting["source"], setting["where"]) for name, setting in found.items()}
    assert said["run --temperature"] == (0.7, "default", None)
    assert said["run --top-k"] == (8, "file", f"{path} [run]")
    assert said["run --stop"] == (["a", "b"], "file", f"{path} [run]")
    assert said["run --top-p"] == (0.5, "environment", "LLMRUN_TOP_P")
    assert said["run --quiet"] == (False, "environment", "LLMRUN_QUIET")
    assert said["models pull --offline"] == (True, "file", f"{path} [models.pull]")
    assert said["chat --top-k"] == (7, "file", str(path))
    assert {name.rpartition(" ")[0] for name in found} >= {"run", "chat", "which-backend", "models list", "install"}


def test_what_is_shown_is_what_run_takes(llmrun: Run, config: Callable[[str], Path], tmp_path: Path) -> None:
    import gguf_builder as build

    model = tmp_path / "tiny.gguf"
    model.write_bytes(build.build_gguf())
    config('top-p = 0.9\n[run]\nmin-p = 0.25\nmax-tokens = 5\nstop = ["#"]\n')
    variables = {"LLMRUN_MAX_TOKENS": "3", "LLMRUN_SEED": "12"}
    taken = json.loads(llmrun("run", model, "hi", "--engine", "fake", "--json", env=variables).stdout)["sampling"]
    found = shown(llmrun, "run", env=variables)
    for name in ("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "max_tokens", "seed", "stop"):
        assert found[f"run --{name.replace('_', '-')}"]["value"] == taken[name], name


def test_one_command(llmrun: Run) -> None:
    found = shown(llmrun, "models", "pull")
    assert set(found) == {"models pull --offline", "models pull --quiet", "models pull --json"}
    assert {name.split()[0] for name in shown(llmrun, "models")} == {"models"}
    wrong = llmrun("config", "show", "rum")
    assert wrong.code == 2
    assert "no command called rum" in wrong.errors


def test_as_text(llmrun: Run, config: Callable[[str], Path]) -> None:
    path = config("[run]\nseed = 5\n")
    text = llmrun("config", "show", "run", env={"LLMRUN_TEMPERATURE": "warm"}).text
    assert text.startswith(f"configuration file: {path}\n\nllmrun run\n")
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in text.splitlines() if line.startswith("  --")}
    assert lines["--seed"] == ["5", f"{path} [run]"]
    assert lines["--top-p"] == ["0.95", "default"]
    assert lines["--json"] == ["no", "default"]
    assert lines["--temperature"][0] == "warm"
    assert lines["--temperature"][1].startswith("LLMRUN_TEMPERATURE: NOT VALID: ")
    assert "(not there)" in llmrun("config", "show", env={"XDG_CONFIG_HOME": "/nowhere"}).text


@pytest.mark.parametrize(("text", "said"), [("temprature = 1", "did you mean temperature?"), ("x = ", "is not TOML")])
def test_a_file_that_is_wrong(llmrun: Run, config: Callable[[str], Path], text: str, said: str) -> None:
    config(text)
    result = llmrun("config", "show")
    assert (result.code, result.stdout) == (2, b"")
    assert said in result.errors
