"""Bad requests and bad templates on a real model: `run` and `chat` through the real command, on llama.cpp."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.engine

Run = Callable[..., Any]
SHORT = ("--temperature", "0", "--max-tokens", "8")


def with_template(model: Path, folder: Path, template: str | None) -> Path:
    """Copy a model, with another template."""
    path = folder / "changed.gguf"
    change: list[str | Path] = (
        ["--remove-metadata", "tokenizer.chat_template"] if template is None else ["--chat-template", template]
    )
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "gguf.scripts.gguf_new_metadata",
        "--force",
        *change,
        model,
        path,
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return path


def ask(llmrun: Run, command: str, model: Path, *options: str, said: bytes = b"Hello\n") -> Any:
    return llmrun(command, model, *SHORT, *options, stdin=said)


@pytest.mark.parametrize("command", ["run", "chat"])
def test_a_model_without_a_template_is_said_to_have_none(
    llmrun: Run, real_model: Path, tmp_path: Path, command: str
) -> None:
    """FAULTS 14."""
    result = ask(llmrun, command, with_template(real_model, tmp_path, None))
    assert (result.code, bool(result.text.strip())) == (0, True), result.errors
    assert result.errors.count("no chat template") == 1


@pytest.mark.parametrize(
    ("template", "codes"),
    [
        pytest.param("{{ broken", {4}, id="17 syntax error"),
        pytest.param("{{ messages.__init__.__globals__['os'].system('id') }}", {9}, id="18 runs code"),
        pytest.param(
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", {75}, id="19 endless"
        ),
        pytest.param("{% set x = ['a' * 900000000] * 9 %}{{ x }}", {4, 75}, id="20 memory"),
    ],
)
def test_templates_that_cannot_be_used(
    llmrun: Run, real_model: Path, tmp_path: Path, template: str, codes: set[int]
) -> None:
    path = with_template(real_model, tmp_path, template)
    for command in ("run", "chat"):
        result = ask(llmrun, command, path)
        assert result.code in codes, result.errors
        assert result.text == ""
        assert result.errors.startswith("llmrun: error: ")


@pytest.mark.parametrize("command", ["run", "chat"])
def test_a_prompt_longer_than_the_context(llmrun: Run, real_model: Path, command: str) -> None:
    """FAULTS 30: both numbers."""
    result = ask(llmrun, command, real_model, "--context-length", "256", said=b"word " * 400 + b"\n")
    assert (result.code, result.text) == (10, "")
    assert "256" in result.errors
    assert "tokens" in result.errors


@pytest.mark.parametrize("command", ["run", "chat"])
@pytest.mark.parametrize(
    "option",
    [
        pytest.param(("--max-tokens", "0"), id="max-tokens 0"),
        pytest.param(("--temperature", "nan"), id="temperature NaN"),
        pytest.param(("--seed", "-1"), id="seed -1"),
        pytest.param(("--stop", ""), id="empty stop"),
    ],
)
def test_values_that_cannot_be_honoured(llmrun: Run, real_model: Path, command: str, option: tuple[str, str]) -> None:
    """FAULTS 34."""
    result = llmrun(command, real_model, *option, stdin=b"Hello\n")
    assert (result.code, result.text) == (2, "")
    assert "Traceback" not in result.errors


def test_nothing_to_answer(llmrun: Run, real_model: Path) -> None:
    """FAULTS 35: `run` wants a prompt; a chat in which nothing is said ends."""
    assert ask(llmrun, "run", real_model, said=b" \n").code == 2
    assert ask(llmrun, "chat", real_model, said=b" \n").code == 0


@pytest.mark.parametrize("command", ["run", "chat"])
def test_bytes_that_are_no_text(llmrun: Run, real_model: Path, command: str) -> None:
    """FAULTS 36."""
    result = ask(llmrun, command, real_model, said=b"Hello \xff\xfe\n")
    assert result.code == 0, result.errors
    assert "not UTF-8" in result.errors


@pytest.mark.parametrize("command", ["run", "chat"])
def test_output_that_can_only_be_ascii(llmrun: Run, real_model: Path, command: str) -> None:
    """FAULTS 38: the text asks for characters that ASCII does not have."""
    said = "Repeat exactly: 東京 🎉 é\n".encode()
    result = llmrun(command, real_model, *SHORT, stdin=said, env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert result.code == 0, result.errors
    assert result.stdout.isascii()


@pytest.mark.parametrize("command", ["run", "chat"])
def test_a_reader_that_goes_away(start_llmrun: Callable[..., Any], real_model: Path, command: str) -> None:
    """FAULTS 43."""
    arguments = (real_model, "--temperature", "0", "--max-tokens", "400")
    process = start_llmrun(command, *arguments, stdin=subprocess.PIPE)
    process.stdin.write(b"Tell a long story.\n")
    process.stdin.close()
    assert process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=30) == 141
    assert process.stderr.read() == b""


def test_control_tokens_in_text_stay_text(llmrun: Run, real_model: Path) -> None:
    """FAULTS 51."""
    counts = []
    for text in (b"x<|im_end|>y\n", b"xy\n"):
        result = llmrun("run", real_model, "--dry-run", "--json", stdin=text)
        tokens = json.loads(result.stdout)["tokens"]
        counts.append(sum(token in (1, 2) for token in tokens))  # <|im_start|>, <|im_end|>
    assert counts[0] == counts[1] > 0
