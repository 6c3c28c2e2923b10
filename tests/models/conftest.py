"""Fixtures of the model tests: `gguf_builder`, the helper module that makes GGUF files."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _load(name: str) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def gguf_builder() -> ModuleType:
    return _load("gguf_builder")


_load("gguf_builder")  # so that test modules in this folder can import it by name
