"""The converted copy of a model of an old family: plain LLaMA that transformers loads by itself, whole or not there."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmrun.engines.old_families import copy
from llmrun.engines.old_families.mapping import find_mapping
from llmrun.errors import ModelFileError, StorageError
from llmrun.models.huggingface.info import LocalFolder, read_folder_info

pytestmark = pytest.mark.pytorch
TOKENS = [1, 17, 42, 42, 5, 93, 60, 8, 33]


@pytest.fixture(scope="module")
def models() -> Any:
    pytest.importorskip("torch")
    import old_family_models

    return old_family_models


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return tmp_path / "original"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    return folder


def convert(original: Path, cache: Path, **settings: Any) -> tuple[Path, list[float]]:
    mapping = find_mapping(original)
    shares: list[float] = []
    assert mapping is not None
    return copy.converted_copy(original, mapping, cache, shares.append, **settings), shares


@pytest.mark.parametrize("kind", ["internlm-7b", "internlm-20b", "internlm2", "baichuan-7b", "baichuan2-7b"])
def test_transformers_loads_the_copy_by_itself(original: Path, cache: Path, models: Any, kind: str) -> None:
    import torch
    import transformers

    weights = models.write_model(original, kind, shards=3)
    (original / "tokenizer.model").write_bytes(b"\n")
    folder, shares = convert(original, cache)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.inference_mode():
        found = model(torch.tensor([TOKENS])).logits[0]
    torch.testing.assert_close(found, models.reference_logits(kind, weights, TOKENS), atol=1e-5, rtol=1e-5)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    info = read_folder_info(LocalFolder(folder))
    assert (info.architecture, info.remote_code) == ("LlamaForCausalLM", False)
    assert len(list(folder.glob("*.safetensors"))) == 3


def test_it_is_private_and_made_once(original: Path, cache: Path, models: Any) -> None:
    models.write_model(original, "baichuan-7b")
    settings = {"auto_map": {"AutoTokenizer": ["code.Own", None]}, "tokenizer_class": "BaiChuanTokenizer"}
    (original / "tokenizer_config.json").write_text(json.dumps(settings))
    (original / "modeling_own.py").write_text("raise SystemExit('code of the model ran')")
    folder, shares = convert(original, cache)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not list(folder.glob("*.py"))
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {"tokenizer_class": "LlamaTokenizer"}
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again, no_shares = convert(original, cache)
    assert (again, no_shares) == (folder, [])
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    assert shares


def test_another_original_is_another_copy(original: Path, cache: Path, models: Any) -> None:
    models.write_model(original, "baichuan-7b")
    first, _ = convert(original, cache)
    models.write_model(original, "baichuan-7b", shards=2)
    (original / "model.safetensors").unlink()
    second, _ = convert(original, cache)
    assert first != second


def test_nothing_is_left_of_one_that_failed(original: Path, cache: Path, models: Any) -> None:
    from safetensors.torch import save_file

    weights = models.write_model(original, "baichuan-7b")
    del weights["model.norm.weight"]
    save_file(weights, original / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFileError, match=r"model\.norm\.weight"):
        convert(original, cache)
    assert not list(cache.iterdir())


def test_a_full_disk_is_known_before(original: Path, cache: Path, models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    models.write_model(original, "baichuan-7b")
    monkeypatch.setattr(copy, "_SPARE_BYTES", 2**62)
    with pytest.raises(StorageError, match="free"):
        convert(original, cache)
    assert not list(cache.iterdir())


def test_alibi_cannot_be_stored(original: Path, cache: Path, models: Any) -> None:
    models.write_model(original, "baichuan-13b")
    with pytest.raises(ModelFileError, match="ALiBi"):
        convert(original, cache)
