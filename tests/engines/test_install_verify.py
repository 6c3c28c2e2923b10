"""The trial of a build: what kills the child process becomes a sentence; the model for it is real GGUF."""

import os
import sys
from pathlib import Path

import pytest

from llmrun.engines.install.probe_model import PROBE_VOCABULARY, write_probe_model
from llmrun.engines.install.verify import verify_build


def child(folder: Path, script: str) -> str:
    """Write a program that stands in for the child's interpreter."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("script", "crashed", "cause"),
    [
        pytest.param(
            "kill -ILL $$",
            True,
            "it died of SIGILL: it uses an instruction that this CPU does not have, or has set up wrongly",
            id="illegal instruction",
        ),
        pytest.param("kill -SEGV $$", True, "it died of SIGSEGV: it read memory that is not its own", id="segfault"),
        pytest.param("kill -ABRT $$", True, "it died of SIGABRT: it gave up on a failed check", id="abort"),
        pytest.param(
            "kill -KILL $$", True, "it died of SIGKILL: it was killed, most likely because memory ran out", id="killed"
        ),
        pytest.param(
            "echo first >&2; echo 'OSError: libomp.so.5' >&2; exit 1", False, "OSError: libomp.so.5", id="error"
        ),
        pytest.param("exit 3", False, "no message", id="silent error"),
        pytest.param("echo nonsense", False, "the child process answered 'nonsense\\n'", id="nonsense"),
        pytest.param("exit 0", False, "the child process answered ''", id="no answer"),
    ],
)
def test_how_the_child_ends(tmp_path: Path, script: str, crashed: bool, cause: str) -> None:
    found = verify_build(tmp_path, 1, python=child(tmp_path, script))
    assert (found.ok, found.crashed, found.cause) == (False, crashed, cause)


def test_a_child_that_hangs_is_ended(tmp_path: Path) -> None:
    found = verify_build(tmp_path, 1, python=child(tmp_path, "exec sleep 60"), timeout_seconds=0.2)
    assert (found.ok, found.crashed, found.cause) == (False, True, "one batch was not done within 0.2 s")


def test_a_child_that_cannot_be_started(tmp_path: Path) -> None:
    found = verify_build(tmp_path, 1, python=str(tmp_path / "missing"))
    assert not found.ok
    assert "could not be started" in found.cause


def test_a_child_that_answers(tmp_path: Path) -> None:
    answer = '{"features": "AVX = 1", "gpu_offload": true, "prefill_seconds": 0.1}'
    found = verify_build(tmp_path, 1, python=child(tmp_path, f"echo loading; echo '{answer}'"))
    assert (found.ok, found.features, found.gpu_offload) == (True, "AVX = 1", True)


def test_the_current_folder_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llmrun").mkdir()
    (tmp_path / "llmrun/__init__.py").write_text("raise SystemExit('the wrong package')")
    monkeypatch.chdir(tmp_path)
    found = verify_build(tmp_path / "empty", 1)
    assert "wrong package" not in found.cause


def test_the_model_is_gguf_with_every_fast_format(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "probe.gguf"
    write_probe_model(path)
    assert path.stat().st_size < 1 << 20
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    formats = {tensor.tensor_type.name for tensor in tensors.values()}
    assert formats == {"F32", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"}
    for tensor in tensors.values():
        assert tensor.shape[0] % 256 == 0
        assert tensor.data_offset + tensor.n_bytes <= path.stat().st_size
    assert reader.get_field("llama.vocab_size").contents() == PROBE_VOCABULARY


def test_the_model_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_probe_model(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.engine
def test_the_installed_build_works_and_says_what_it_is() -> None:
    found = verify_build(None, 2)
    assert found.cause == ""
    assert found.ok
    assert "CPU" in found.features


@pytest.mark.engine
def test_the_installed_build_has_its_record_and_its_own_openmp() -> None:
    import importlib.util

    from llmrun.engines.install.wheels import read_installed_record

    record = read_installed_record()
    if record is None and not os.environ.get("LLMRUN_REQUIRE_ENGINES"):
        pytest.skip("the installed llama-cpp was not built by llmrun")
    assert record is not None
    assert record["version"] == "0.3.36"
    assert record["verified"]
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    libraries = Path(spec.submodule_search_locations[0]) / "lib"
    if sys.platform == "linux" and "-DGGML_OPENMP=ON" in record["options"]:
        assert list(libraries.glob("libomp.so*"))
    assert not list(libraries.parents[1].glob("include/ggml*.h"))
    assert len(list(libraries.glob("libllama*"))) == 1
