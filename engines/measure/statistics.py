"""Statistics of repetitions: what they say about a speed, and whether two speeds differ.

Few repetitions of a noisy measurement are what there is, so intervals are Student's, and two sets are compared with
Welch's test, which does not take their spreads to be equal. Rates are compared as logarithms: what disturbs them
multiplies, and the interval of a difference of logarithms is one of a ratio.

Nothing here takes the repetitions to be more than they are: those of one run share its load and its hour, so a
difference that is found between two runs is one between the runs. Where there are several runs of the same thing, each
counts as one number, its mean: only between runs is it seen what changes from one to the next.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "CONFIDENCE",
    "Difference",
    "Summary",
    "adjust_holm",
    "compare_means",
    "compare_welch",
    "percentile",
    "summarize",
    "t_quantile",
]

CONFIDENCE = 0.95
_ITERATIONS = 500
_TINY = 1e-300
_PRECISION = 1e-15


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What repetitions say.

    Attributes:
        count: How many there are.
        mean: Their mean; median likewise.
        sd: Standard deviation of a repetition (divided by count - 1); None for a single one.
        low: Lower end of the 95% interval of the mean; high likewise; None for a single one.
    """

    count: int
    mean: float
    median: float
    sd: float | None
    low: float | None
    high: float | None

    @property
    def relative_error(self) -> float | None:
        """Half of the interval as a share of the mean; None when nothing can be said."""
        if self.low is None or self.high is None or not self.mean:
            return None
        return (self.high - self.low) / 2 / abs(self.mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two sets of positive numbers compared.

    Attributes:
        ratio: Geometric mean of the second over that of the first.
        low: Lower end of the 95% interval of the ratio; high likewise; None where one side is a single number.
        p_value: How likely a difference as large as this one would be without a true one; None likewise.
    """

    ratio: float
    low: float | None
    high: float | None
    p_value: float | None


def summarize(values: Sequence[float]) -> Summary | None:
    """Return what some repetitions say; None for no repetitions."""
    if not values:
        return None
    mean = statistics.fmean(values)
    median = statistics.median(values)
    if len(values) < 2:
        return Summary(count=1, mean=mean, median=median, sd=None, low=None, high=None)
    sd = statistics.stdev(values)
    half = t_quantile((1 + CONFIDENCE) / 2, len(values) - 1) * sd / math.sqrt(len(values))
    return Summary(count=len(values), mean=mean, median=median, sd=sd, low=mean - half, high=mean + half)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of the values lies, between two neighbours in proportion.

    Source: definition 7 of Hyndman and Fan, Sample quantiles in statistical packages (1996), numpy's default.
    """
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def compare_welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare two sets of positive numbers by Welch's test of their logarithms.

    Source: Welch, The generalization of Student's problem when several different population variances are involved
    (1947); the degrees of freedom are Satterthwaite's.
    """
    ours, theirs = [math.log(value) for value in second], [math.log(value) for value in first]
    shift = statistics.fmean(ours) - statistics.fmean(theirs)
    if len(ours) < 2 or len(theirs) < 2:
        return Difference(ratio=math.exp(shift), low=None, high=None, p_value=None)
    parts = [statistics.variance(side) / len(side) for side in (ours, theirs)]
    weights = sum(part**2 / (len(side) - 1) for part, side in zip(parts, (ours, theirs), strict=True))
    return _student(shift, math.sqrt(sum(parts)), sum(parts) ** 2 / weights if weights else 1.0)


def compare_means(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare the means of runs, each a positive number: Welch's test where both sides have several of them.

    Where only one side has several, their variance s² is taken to be that of the single run on the other side too: of
    k runs against one, t = (difference of the mean logarithms) / (s · √(1 + 1/k)), with k - 1 degrees of freedom. That
    is Student's test of two samples, of which one has a single member.

    Source: Crawford and Howell, Comparing an individual's test score against norms derived from small samples (1998).
    """
    if (len(first) > 1) == (len(second) > 1):
        return compare_welch(first, second)
    several = [math.log(value) for value in max(first, second, key=len)]
    shift = statistics.fmean(map(math.log, second)) - statistics.fmean(map(math.log, first))
    error = statistics.stdev(several) * math.sqrt(1 + 1 / len(several))
    return _student(shift, error, len(several) - 1)


def _student(shift: float, error: float, freedom: float) -> Difference:
    """Return what a difference of logarithms and its standard error say."""
    if error == 0:
        return Difference(
            ratio=math.exp(shift), low=math.exp(shift), high=math.exp(shift), p_value=0.0 if shift else 1.0
        )
    half = t_quantile((1 + CONFIDENCE) / 2, freedom) * error
    return Difference(
        ratio=math.exp(shift),
        low=math.exp(shift - half),
        high=math.exp(shift + half),
        p_value=_two_sided(abs(shift) / error, freedom),
    )


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values of several tests, raised so that all of them together are wrong in at most the stated share.

    Source: Holm, A simple sequentially rejective multiple test procedure (1979).
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def t_quantile(share: float, freedom: float) -> float:
    """Return the value below which a share (at least one half) of Student's t distribution lies."""
    low, high = 0.0, 1.0
    while 1 - _two_sided(high, freedom) / 2 < share:
        high *= 2
    while low < (middle := (low + high) / 2) < high:  # until they are neighbours among the numbers
        if 1 - _two_sided(middle, freedom) / 2 < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _two_sided(t: float, freedom: float) -> float:
    """Return how likely a t value is to be at least so far from 0: I_x(f/2, 1/2) with x = f / (f + t²)."""
    return _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function.

    Source: DLMF 8.17.22, https://dlmf.nist.gov/8.17, a continued fraction, evaluated by Lentz's method.
    """
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # there the fraction converges slowly
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    return front * _beta_fraction(x, a, b) / a


def _beta_fraction(x: float, a: float, b: float) -> float:
    numerator, denominator = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = denominator
    for m in range(1, _ITERATIONS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        factor = 1.0
        for term in (even, odd):
            denominator = 1 / _not_zero(1 + term * denominator)
            numerator = _not_zero(1 + term / numerator)
            factor = numerator * denominator
            value *= factor
        if abs(factor - 1) < _PRECISION:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
