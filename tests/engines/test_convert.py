"""A converted llama computes what the legacy file computes; and the real loaders take every file that tests make."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import legacy_models as legacy
import pytest

from llmrun.engines.convert import ConvertRequest, convert_file
from llmrun.errors import ModelFileError, UsageError
from llmrun.models.ggml_writer import GgmlTensor
from llmrun.progress import SILENT

TOKENS = [1, 40, 75, 200, 258, 261, 3]
LEGACY_PROGRAM = """
import json, sys
from ctransformers import LLM, Config
path, model_type, tokens = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model = LLM(path, model_type=model_type, config=Config(context_length=64, threads=1))
model.eval(tokens)
print(json.dumps(list(model.logits)))
"""
GGUF_PROGRAM = """
import json, sys
from llama_cpp import Llama
path, tokens = sys.argv[1], json.loads(sys.argv[2])
model = Llama(path, n_ctx=64, n_threads=1, logits_all=True, verbose=False)
model.eval(tokens)
print(json.dumps(model.scores[len(tokens) - 1].tolist()))
"""


class Notes:
    """Keeps what is said to the user."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def begin(self, task: str, total: int | None, unit: str = "bytes", done: int = 0) -> None:
        pass

    def advance(self, amount: int) -> None:
        pass

    def finish(self) -> None:
        pass

    def note(self, text: str) -> None:
        self.texts.append(text)


def write(tmp_path: Path, model: legacy.Legacy, name: str = "m.bin") -> Path:
    path = tmp_path / name
    path.write_bytes(legacy.write(model))
    return path


def logits(program: str, *arguments: str | Path) -> list[float]:
    """Return the logits after the last of the tokens, computed in a process of its own."""
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    values = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(values, list)
    return values


@pytest.mark.engine
@pytest.mark.ctransformers
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("llama-ggjt-1", 1e-3), ("llama-ggjt-3", 2e-2), ("llama-ggjt-3-q8_0", 5e-2)],
    ids=["float32", "float16", "Q8_0"],
)
def test_a_converted_llama_computes_the_same(tmp_path: Path, name: str, tolerance: float) -> None:
    path = write(tmp_path, legacy.ALL[name])
    converted = convert_file(ConvertRequest(path=path), progress=SILENT)
    assert (converted.path, converted.loaded) == (tmp_path / "m.gguf", True)
    before = logits(LEGACY_PROGRAM, path, "llama", json.dumps(TOKENS))
    after = logits(GGUF_PROGRAM, converted.path, json.dumps(TOKENS))
    assert len(before) == len(after) == len(legacy.TOKENS)
    largest = max(abs(value) for value in before)
    assert max(abs(a - b) for a, b in zip(before, after, strict=True)) <= tolerance * largest


@pytest.mark.ctransformers
@pytest.mark.parametrize("name", legacy.ALL)
def test_the_real_loader_takes_every_file_that_the_reader_takes(tmp_path: Path, name: str) -> None:
    """The names and shapes in legacy_models are right, then, and so are those of the reader, which takes them too."""
    model = legacy.ALL[name]
    values = logits(LEGACY_PROGRAM, write(tmp_path, model), model.model_type, json.dumps(TOKENS))
    assert len(values) == len(model.tokens)
    assert all(value == value and abs(value) < 1e4 for value in values)
    assert max(values) > min(values)


@pytest.mark.parametrize(
    ("name", "options", "context", "epsilon", "notes"),
    [
        pytest.param("m.bin", {}, 2048, 5e-6, ["epsilon", "context length"], id="nothing known"),
        pytest.param("m.bin", {"rms_epsilon": 1e-5, "context_length": 512}, 512, 1e-5, [], id="told"),
        pytest.param("llama-2-7b-chat.ggmlv3.q4_0.bin", {}, 4096, 1e-5, [], id="llama 2 of the catalogue"),
        pytest.param("vicuna-7b-v1.3.ggmlv3.q4_0.bin", {}, 2048, 1e-6, [], id="llama 1 of the catalogue"),
        pytest.param("my-llama2-tune.bin", {}, 4096, 1e-5, ["context length"], id="llama 2 by name"),
        pytest.param("codellama.bin", {"rms_epsilon": 1e-5, "context_length": 64}, 64, 1e-5, ["rope-base"], id="code"),
    ],
)
def test_what_the_file_does_not_say(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, float],
    context: int,
    epsilon: float,
    notes: list[str],
) -> None:
    from llmrun.engines import convert
    from llmrun.models.gguf.header import read_gguf_header

    monkeypatch.setattr(convert, "_try_out", lambda _path, _progress: False)
    path = write(tmp_path, legacy.ALL["llama-ggjt-3"], name)
    progress = Notes()
    done = convert_file(ConvertRequest(path=path, **options), progress=progress)  # type: ignore[arg-type]
    metadata = read_gguf_header(done.path).metadata
    assert metadata["llama.context_length"] == context
    assert metadata["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(epsilon, rel=1e-4)
    assert len(progress.texts) == len(notes)
    assert all(word in text for word, text in zip(notes, progress.texts, strict=True))
    assert ("tokenizer.chat_template" in metadata) == ("chat" in name or "vicuna" in name)


@pytest.mark.engine
def test_a_result_that_does_not_work_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are not numbers: the header is sound, and what comes out of llama.cpp is not."""

    def spoiled(model: legacy.Legacy, noise: object, name: str, shape: tuple[int, ...]) -> GgmlTensor:
        tensor: GgmlTensor = sound(model, noise, name, shape)
        if name != "norm.weight":
            return tensor
        return GgmlTensor(name=name, type_number=0, shape=shape, data=struct.pack("<f", float("nan")) * shape[0])

    sound = legacy._tensor
    monkeypatch.setattr(legacy, "_tensor", spoiled)
    path = write(tmp_path, legacy.ALL["llama-ggjt-3"])
    with pytest.raises(ModelFileError, match="was not kept"):
        convert_file(ConvertRequest(path=path), progress=SILENT)
    assert [file.name for file in tmp_path.iterdir()] == ["m.bin"]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"context_length": 0}, "--context-length"),
        ({"rms_epsilon": 0.0}, "--rms-epsilon"),
        ({"rms_epsilon": float("nan")}, "--rms-epsilon"),
        ({"rope_base": -1.0}, "--rope-base"),
    ],
)
def test_faults_34_options_out_of_range(tmp_path: Path, options: dict[str, float], name: str) -> None:
    path = write(tmp_path, legacy.ALL["llama-ggjt-3"])
    with pytest.raises(UsageError, match=name):
        convert_file(ConvertRequest(path=path, **options), progress=SILENT)  # type: ignore[arg-type]
