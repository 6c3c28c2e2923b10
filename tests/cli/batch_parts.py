"""What the tests of batches have in common: the fake engine's script, a tiny model, the command."""

import json
from pathlib import Path

import gguf_builder as build
import pytest

__all__ = ["ECHO", "command", "fake", "model"]


def fake(**script: object) -> dict[str, str]:
    """Return the environment in which the fake engine plays a script."""
    return {"LLMRUN_ENGINE": "fake", "LLMRUN_FAKE": json.dumps(script)}


ECHO = fake()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(build.build_gguf(build.llama_pairs(**{"llama.context_length": build.u32(512)})))
    return path


@pytest.fixture
def command(model: Path, tmp_path: Path) -> list[str | Path]:
    return ["run", model, "--raw", "--batch", tmp_path / "r", "--output", tmp_path / "o"]
