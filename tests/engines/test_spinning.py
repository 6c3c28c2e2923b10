"""How long OpenMP's threads spin: shorter than by default, unless the user says how they wait."""

import os

import pytest

from llmrun.engines.threads.spinning import limit_spinning


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({}, "3000", id="nothing said"),
        pytest.param({"OMP_WAIT_POLICY": "active"}, None, id="policy"),
        pytest.param({"GOMP_SPINCOUNT": "7"}, "7", id="count"),
    ],
)
def test_what_the_user_says_counts(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, given.get(name, ""))  # so that whatever is set is undone
        if name not in given:
            monkeypatch.delenv(name)
    limit_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == expected
