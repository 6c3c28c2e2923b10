"""What the trial of PyTorch says: the types that work on each device, and what a build for GPUs misses here."""

import contextlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from llmrun.engines.trials.pytorch_child import try_pytorch


class FakeTensor:
    """As much of a tensor as the trial looks at."""

    def __init__(self, finite: bool = True) -> None:
        self.finite = finite

    def __getitem__(self, index: Any) -> "FakeTensor":
        return self

    def reshape(self, *shape: int) -> "FakeTensor":
        return self

    def argmax(self, axis: int) -> "FakeTensor":
        return self

    def all(self) -> bool:
        return self.finite


class FakeModel:
    """Raises, or computes nonsense, in the types on the devices that it is told."""

    def __init__(self, raising: dict[tuple[str, str], str], nonsense: set[tuple[str, str]]) -> None:
        self.raising, self.nonsense = raising, nonsense
        self.where = ("", "")

    def eval(self) -> "FakeModel":
        return self

    def to(self, device: str, dtype: str) -> "FakeModel":
        self.where = (device, dtype)
        return self

    def __call__(self, tokens: FakeTensor, **options: Any) -> Any:
        if self.where in self.raising:
            raise RuntimeError(self.raising[self.where])
        return SimpleNamespace(logits=FakeTensor(self.where not in self.nonsense), past_key_values=None)


def fake_torch(*, cuda: str | None = None, hip: str | None = None, devices: tuple[str, ...] = ()) -> Any:
    def backend(name: str) -> Any:
        return SimpleNamespace(is_available=lambda: name in devices, is_built=lambda: name in devices)

    return SimpleNamespace(
        version=SimpleNamespace(cuda=cuda, hip=hip),
        cuda=backend("cuda"),
        xpu=backend("xpu"),
        backends=SimpleNamespace(mps=backend("mps")),
        set_num_threads=lambda count: None,
        inference_mode=contextlib.nullcontext,
        arange=lambda count, device: FakeTensor(),
        isfinite=lambda tensor: tensor,
        float32="float32",
        bfloat16="bfloat16",
        float16="float16",
    )


def try_with(monkeypatch: pytest.MonkeyPatch, torch: Any, model: FakeModel) -> dict[str, Any]:
    transformers = SimpleNamespace(LlamaConfig=lambda **shape: SimpleNamespace(), LlamaForCausalLM=lambda config: model)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    return try_pytorch(2)


@pytest.mark.parametrize(
    ("torch", "raising", "nonsense", "features", "gpu"),
    [
        pytest.param(fake_torch(), {}, set(), "float32, bfloat16 on cpu", False, id="a build for processors"),
        pytest.param(
            fake_torch(),
            {("cpu", "bfloat16"): "not implemented\nfor BFloat16"},
            set(),
            "float32 on cpu; bfloat16 on cpu fails: not implemented",
            False,
            id="a type that this processor lacks",
        ),
        pytest.param(
            fake_torch(cuda="12.8"),
            {},
            set(),
            "float32, bfloat16 on cpu; built for CUDA 12.8, and sees no such device",
            True,
            id="a build for CUDA without a device",
        ),
        pytest.param(
            fake_torch(cuda="12.8", devices=("cuda",)),
            {},
            set(),
            "float32, bfloat16 on cpu; float32, bfloat16, float16 on cuda",
            True,
            id="a GPU",
        ),
        pytest.param(
            fake_torch(hip="6.3", devices=("cuda",)),
            {("cuda", name): "no kernel" for name in ("float32", "bfloat16")},
            {("cuda", "float16")},
            "float32, bfloat16 on cpu; float32 on cuda fails: no kernel; bfloat16 on cuda fails: no kernel; "
            "float16 on cuda fails: the logits are not finite numbers",
            True,
            id="a GPU that the build has no kernels for",
        ),
        pytest.param(
            fake_torch(devices=("mps",)),
            {},
            set(),
            "float32, bfloat16 on cpu; float32, bfloat16, float16 on mps",
            True,
            id="Apple Silicon",
        ),
    ],
)
def test_what_works_where(
    monkeypatch: pytest.MonkeyPatch,
    torch: Any,
    raising: dict[tuple[str, str], str],
    nonsense: set[tuple[str, str]],
    features: str,
    gpu: bool,
) -> None:
    found = try_with(monkeypatch, torch, FakeModel(raising, nonsense))
    assert found == {"features": features, "gpu_offload": gpu}


def test_without_float32_on_the_processor_it_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FakeModel({}, {("cpu", "float32")})
    with pytest.raises(SystemExit, match="float32 on cpu fails: the logits are not finite numbers"):
        try_with(monkeypatch, fake_torch(), model)
