"""Statistics of measurements, against scipy and against what is planted."""

import math
import random

import numpy
import pytest
from scipy import stats

from llmrun.engines.measure.statistics import (
    adjust_holm,
    compare_means,
    compare_welch,
    percentile,
    summarize,
    t_quantile,
)


@pytest.mark.parametrize("freedom", [1, 2, 3.7, 9, 40, 1000])
@pytest.mark.parametrize("share", [0.6, 0.9, 0.975, 0.995, 0.9999])
def test_quantiles_are_those_of_scipy(freedom: float, share: float) -> None:
    assert t_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-9)


def test_a_summary_is_that_of_numpy_and_scipy() -> None:
    values = [41.2, 40.8, 42.0, 39.9, 41.5]
    summary = summarize(values)
    assert summary is not None
    low, high = stats.t.interval(0.95, 4, loc=numpy.mean(values), scale=stats.sem(values))
    assert summary.mean == pytest.approx(numpy.mean(values))
    assert summary.sd == pytest.approx(numpy.std(values, ddof=1))
    assert summary.median == numpy.median(values)
    assert (summary.low, summary.high) == pytest.approx((low, high))
    assert summary.relative_error == pytest.approx((high - low) / 2 / numpy.mean(values))


def test_one_value_has_no_interval_and_no_value_no_summary() -> None:
    summary = summarize([3.0])
    assert summary is not None
    assert (summary.mean, summary.sd, summary.low, summary.relative_error) == (3.0, None, None, None)
    assert summarize([]) is None


def test_percentiles_are_those_of_numpy() -> None:
    values = [random.Random(1).random() for _ in range(37)]
    for share in (0.0, 0.05, 0.5, 0.95, 1.0):
        assert percentile(values, share) == pytest.approx(numpy.quantile(values, share))


@pytest.mark.parametrize("seed", range(12))
def test_the_comparison_is_scipys_welch_test_of_logarithms(seed: int) -> None:
    draw = numpy.random.default_rng(seed)
    first = draw.lognormal(4, 0.05, 2 + seed)
    second = draw.lognormal(4.05, 0.2, 3 + seed // 2)
    found = compare_welch(first.tolist(), second.tolist())
    wanted = stats.ttest_ind(numpy.log(second), numpy.log(first), equal_var=False)
    interval = wanted.confidence_interval()
    assert found.p_value == pytest.approx(wanted.pvalue, rel=1e-7)
    assert (found.low, found.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    assert found.ratio == pytest.approx(stats.gmean(second) / stats.gmean(first))


def test_a_single_value_is_compared_without_a_claim() -> None:
    found = compare_welch([100.0], [90.0, 91.0])
    assert found.ratio == pytest.approx(0.905, abs=0.001)
    assert (found.low, found.high, found.p_value) == (None, None, None)


def test_equal_repetitions_are_no_division_by_zero() -> None:
    assert compare_welch([5.0, 5.0], [5.0, 5.0]).p_value == 1.0
    assert compare_welch([5.0, 5.0], [6.0, 6.0]).p_value == 0.0


def test_several_runs_on_both_sides_are_compared_by_welchs_test() -> None:
    first, second = [100.0, 104.0, 97.0], [91.0, 90.0, 95.0, 93.0]
    assert compare_means(first, second) == compare_welch(first, second)


@pytest.mark.parametrize("seed", range(8))
def test_one_run_against_several_is_scipys_test_with_the_variance_of_the_several(seed: int) -> None:
    draw = numpy.random.default_rng(seed)
    several, single = draw.lognormal(4, 0.1, 2 + seed), draw.lognormal(4.2, 0.1, 1)
    logs = numpy.log(several)
    wanted = stats.ttest_ind_from_stats(
        float(numpy.log(single[0])), 0.0, 1, float(logs.mean()), float(logs.std(ddof=1)), len(logs), equal_var=True
    )
    shift = numpy.log(single[0]) - logs.mean()
    half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) * math.sqrt(1 + 1 / len(logs))
    found = compare_means(several.tolist(), single.tolist())
    assert found.p_value == pytest.approx(wanted.pvalue, rel=1e-7)
    assert (found.low, found.high) == pytest.approx((math.exp(shift - half), math.exp(shift + half)))
    turned = compare_means(single.tolist(), several.tolist())
    assert turned.p_value == pytest.approx(found.p_value)
    assert turned.ratio == pytest.approx(1 / found.ratio)
    assert (turned.low, turned.high) == pytest.approx((math.exp(-shift - half), math.exp(-shift + half)))


def test_equal_runs_are_no_division_by_zero() -> None:
    assert compare_means([5.0, 5.0], [5.0]).p_value == 1.0
    assert compare_means([6.0], [5.0, 5.0]).p_value == 0.0


def test_several_tests_together_are_adjusted_as_holm_says() -> None:
    assert adjust_holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert adjust_holm([0.5, 0.001]) == pytest.approx([0.5, 0.002])
    assert adjust_holm([]) == []


def test_a_tenth_is_found_and_a_hundredth_is_not() -> None:
    """With ten repetitions that scatter by 2%, as on a machine that is not quite quiet."""
    draw = random.Random(7)
    found = {0.9: 0, 0.99: 0, 1.0: 0}
    for _ in range(200):
        first = [draw.gauss(100, 2) for _ in range(10)]
        for factor in found:
            second = [draw.gauss(100 * factor, 2 * factor) for _ in range(10)]
            p_value = compare_welch(first, second).p_value
            found[factor] += p_value is not None and p_value < 0.05
    assert found[0.9] == 200
    assert found[0.99] < 60
    assert found[1.0] < 20  # one in twenty by chance
