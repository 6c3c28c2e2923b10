"""What is claimed of runs whose differences are planted, in simulations of a host that changes from run to run."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from llmrun.engines.measure.comparison import Claim, Comparison, compare_results
from llmrun.engines.measure.stored import StoredResult, StoredSide, parse_result

RATE, TIME = "decode_tokens_per_second", "tpot_seconds"
SIMULATIONS = 400


def run(rates: Sequence[float], minute: int = 0, memory: Sequence[float] = (), gpu: int | None = None) -> StoredResult:
    """Return a result: repetitions of one rate, minutes after noon, what memory was measured to be, memory of a GPU."""
    settings = {"model": "m", "engine": "fake", "threads": 2, "kv_type": "f16", "gpu_layers": None, "parallel": 1}
    row: dict[str, Any] = settings | {
        "depth": 0,
        "prompt_tokens": 0,
        "answer_tokens": 4,
        "tokens_digest": "d",
        "warnings": [],
        "peak_memory_bytes": 1,
        "gpu_memory_bytes": gpu,
        "samples": {RATE: list(rates), TIME: [1 / rate for rate in rates]},
    }
    document = {
        "schema": "llmrun.bench",
        "version": 1,
        "llmrun": "1.0",
        "created": f"2026-01-01T12:{minute:02}:00+00:00",
        "machine": {"cpu": {"name": "x", "logical_cores": 2}, "memory": {"total_bytes": 1 << 30}},
        "limits": [{"threads": 2, "bytes_per_second_now": memory[0], "bytes_per_second_seen": memory}]
        if memory
        else [],
        "engines": [{"engine": "fake", "version": "1", "stamp": "s"}],
        "rows": [row],
    }
    return parse_result(document, f"{minute}.json")


def side(draw: random.Random, count: int, factor: float, drift: float, first_minute: int) -> StoredSide:
    """Return runs with a rate of 100 times the factor, of which each one's own is off by `drift`, repetitions by 1%."""
    runs = []
    for number in range(count):
        own = 100 * factor * math.exp(draw.gauss(0, drift))
        runs.append(run([draw.gauss(own, own / 100) for _ in range(5)], first_minute + 2 * number))
    return StoredSide(name="side", runs=tuple(runs))


def simulate(counts: tuple[int, int], factor: float, drift: float, seed: int) -> list[Claim | None]:
    """Return what is claimed of the rate and of its time when the runs of both sides are made in turns."""
    draw = random.Random(seed)
    found = compare_results(side(draw, counts[0], 1.0, drift, 1), side(draw, counts[1], factor, drift, 2))
    assert all(pair.runs == counts for pair in found.pairs)
    return [pair.claim for pair in found.pairs]


def share_claimed(counts: tuple[int, int], factor: float, drift: float) -> float:
    found = [any(simulate(counts, factor, drift, seed)) for seed in range(SIMULATIONS)]
    return sum(found) / len(found)


@pytest.mark.parametrize("counts", [(3, 3), (2, 5), (1, 5), (4, 1)], ids=str)
def test_a_host_that_drifts_by_a_fifth_is_no_difference(counts: tuple[int, int]) -> None:
    assert share_claimed(counts, 1.0, drift=0.2) <= 0.05


def test_one_run_of_such_a_host_is_never_called_real() -> None:
    claims = {claim for seed in range(SIMULATIONS) for claim in simulate((1, 1), 1.0, 0.2, seed)}
    assert claims == {None, Claim.THESE_RUNS}


def test_a_tenth_is_found_with_five_runs_a_side() -> None:
    assert share_claimed((5, 5), 0.9, drift=0.03) >= 0.95
    assert set(simulate((5, 5), 0.9, 0.03, seed=0)) == {Claim.REAL}


def test_a_tenth_is_found_with_one_run_against_many() -> None:
    assert share_claimed((12, 1), 0.9, drift=0.03) >= 0.7


def test_a_hundredth_is_hardly_ever_claimed_at_that_noise() -> None:
    assert share_claimed((5, 5), 0.99, drift=0.03) <= 0.05


def test_less_than_the_margin_is_found_where_the_runs_show_that_they_hardly_differ() -> None:
    assert share_claimed((6, 6), 0.975, drift=0.003) >= 0.95
    assert share_claimed((1, 1), 0.975, drift=0.003) <= 0.05


@pytest.mark.parametrize("counts", [(3, 3), (2, 2), (1, 4), (1, 5)], ids=str)
def test_a_host_with_two_speeds_is_seldom_called_a_difference(counts: tuple[int, int]) -> None:
    """All runs of A at the one speed and all of B at the other look like a difference that is beyond doubt."""
    draw, real = random.Random(5), 0
    for _ in range(SIMULATIONS):
        rates = [[(2 * number + side, draw.choice((280.0, 310.0)) * draw.gauss(1, 0.01)) for number in range(count)]
                 for side, count in enumerate(counts)]  # fmt: skip
        real += any(pair.claim is Claim.REAL for pair in compare_rates(*rates).pairs)
    assert real <= SIMULATIONS * 0.05
    assert sum(counts) >= 6 or real == 0


def compare_rates(first: Sequence[tuple[int, float]], second: Sequence[tuple[int, float]]) -> Comparison:
    """Compare runs that are given by their minute and rate."""
    sides = [
        StoredSide(name=name, runs=tuple(run([rate, rate * 1.001], minute) for minute, rate in given))
        for name, given in (("A", first), ("B", second))
    ]
    return compare_results(*sides)


def compare_single(first: StoredResult, second: StoredResult) -> Comparison:
    return compare_results(StoredSide(name="A", runs=(first,)), StoredSide(name="B", runs=(second,)))


SLOW, FAST = [100.0, 101.0, 99.0, 100.5], [125.0, 126.0, 124.0, 125.5]


@pytest.mark.parametrize(
    ("before", "after", "claim"),
    [
        pytest.param([30e9, 30e9], [30.5e9, 30e9], Claim.THESE_RUNS, id="the same machine"),
        pytest.param([30e9, 30e9], [45e9, 44e9], Claim.MACHINE, id="a faster one"),
        pytest.param([45e9, 44e9], [30e9, 30e9], Claim.MACHINE, id="a slower one"),
        pytest.param([30e9, 45e9], [30e9, 45e9], Claim.MACHINE, id="one that changed within the runs"),
        pytest.param([30e9, 30e9], [34e9, 34e9], Claim.THESE_RUNS, id="one that changed by less"),
        pytest.param([], [], Claim.THESE_RUNS, id="not known"),
        pytest.param([30e9], [], Claim.THESE_RUNS, id="known of one only"),
    ],
)
def test_what_the_machine_itself_changed_by_is_not_claimed(
    before: list[float], after: list[float], claim: Claim
) -> None:
    found = compare_single(run(SLOW, 1, memory=before), run(FAST, 2, memory=after))
    assert [pair.claim for pair in found.pairs] == [claim] * 2
    assert [pair.real for pair in found.pairs] == [claim is Claim.THESE_RUNS] * 2
    said = any(caution.startswith("the machine itself") for caution in found.cautions)
    assert said is (claim is Claim.MACHINE or after[:1] == [34e9])
    assert any("is not known" in caution for caution in found.cautions) is (not before or not after)


def test_what_the_machine_changed_is_in_the_margin() -> None:
    found = compare_single(run(SLOW, 1, memory=[30e9, 32e9]), run(FAST, 2, memory=[38e9, 34e9]))
    assert [pair.margin for pair in found.pairs] == [pytest.approx(38 / 30 - 1)] * 2
    assert found.cautions == (
        "the machine itself changed while B was measured: it read memory at 34.0 to 38.0 GB/s (2 threads)",
        "the machine itself changed: it read memory 1.16 times as fast in B (2 threads)",
    )


def test_a_margin_for_memory_is_not_for_what_ran_on_a_gpu_or_was_measured_more_than_once() -> None:
    slow, fast = ([run(rates, minute, [speed], gpu=1 << 30) for minute in (1, 2, 3)] for rates, speed in
                  ((SLOW, 30e9), (FAST, 45e9)))  # fmt: skip
    assert [pair.claim for pair in compare_single(slow[0], fast[0]).pairs] == [Claim.THESE_RUNS] * 2
    assert compare_single(slow[0], fast[0]).cautions == ()
    several = compare_results(StoredSide(name="A", runs=tuple(slow)), StoredSide(name="B", runs=tuple(fast)))
    assert {pair.margin for pair in several.pairs} == {0.0}


def test_one_side_after_the_other_is_no_proof() -> None:
    rates = (100.0, 101.0, 99.5), (80.0, 81.0, 79.5)
    turns = compare_rates([*zip((1, 3, 5), rates[0], strict=True)], [*zip((2, 4, 6), rates[1], strict=True)])
    blocks = compare_rates([*zip((1, 2, 3), rates[0], strict=True)], [*zip((4, 5, 6), rates[1], strict=True)])
    assert [pair.claim for pair in turns.pairs] == [Claim.REAL] * 2
    assert [pair.claim for pair in blocks.pairs] == [Claim.THESE_RUNS] * 2
    assert turns.cautions == ()
    assert "before the other" in blocks.cautions[0]
    assert [pair.difference for pair in turns.pairs] == [pair.difference for pair in blocks.pairs]


def test_a_run_counts_as_its_mean_however_many_repetitions_it_has() -> None:
    ours = [run([90.0, 110.0], 1), run([104.0] * 9, 3)]
    theirs = [run([80.0], 2), run([70.0, 90.0, 80.0], 4)]
    found = compare_results(StoredSide(name="A", runs=tuple(ours)), StoredSide(name="B", runs=tuple(theirs)))
    rate = found.pairs[0]
    assert rate.first == pytest.approx(102)
    assert rate.second == pytest.approx(80)
    assert rate.difference.ratio == pytest.approx(80 / math.sqrt(100 * 104))


def test_a_figure_that_a_run_lacks_is_compared_among_those_that_have_it() -> None:
    ours, theirs = side(random.Random(1), 3, 1.0, 0.01, 1), side(random.Random(2), 3, 1.0, 0.01, 2)
    lacking = replace(theirs.runs[1], rows=(replace(theirs.runs[1].rows[0], samples={}),))
    found = compare_results(ours, replace(theirs, runs=(theirs.runs[0], lacking, theirs.runs[2])))
    assert [pair.runs for pair in found.pairs] == [(3, 2)] * 2
    assert found.unmatched == 0


def test_runs_of_one_side_should_be_of_one_machine_and_build() -> None:
    ours, theirs = side(random.Random(1), 3, 1.0, 0.01, 1), side(random.Random(2), 3, 1.0, 0.01, 2)
    other = replace(theirs.runs[1], machine="another", builds={"fake": "2"}, llmrun="2.0")
    found = compare_results(ours, replace(theirs, runs=(theirs.runs[0], other, theirs.runs[2])))
    said = "\n".join(found.cautions)
    assert "B: the runs are of different machines" in said
    assert "B: the runs are of different builds or versions of fake" in said
    assert "B: the runs are of different versions of llmrun" in said
    assert "A: " not in said
