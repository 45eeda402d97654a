"""Losses or costs of a sample turned into p-values and upper confidence bounds for their mean, for any sample size."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import asin, ceil, inf, log, pi, sqrt

import numpy as np

from offramp.features.outputs import Floats, Ints

# Every p-value here is for the hypothesis "the mean is at least ``bound``": small ones are evidence that it is below.
# They and the bounds hold for independent examples of one distribution, whatever it is and however many examples there
# are; nothing is asymptotic.

CAUTION = 0.75
"""Share of the wealth that a bet risks at most (Waudby-Smith & Ramdas use 1/2 or 3/4)."""

SLACK = 1e-3
"""What a paired p-value may be too large by, so that its nuisance parameter need not be looked for everywhere."""

UNSEEN = 1e-12
"""Probability of the counts that are left out at either end of a sum; it is added to the sum."""

TIES = 1e-9
"""Scores apart by less are the same but for rounding."""

RESOLUTION = 1e-5
"""Bounds are that much too large at most."""

SMALL = 1e-5
"""Levels below which the search of ``paired_bound`` is not worth its time."""


# --- losses that are 0 or 1


def binomial_p(wrong: int, n: int, bound: float) -> float:
    """P-value from ``wrong`` losses of 1 among ``n``, the others 0: the exact binomial tail P(Bin(n, bound) <= wrong).

    >>> round(binomial_p(0, 100, 0.03), 4)
    0.0476
    """
    from scipy.special import bdtr

    _check_counts(wrong, 0, n)
    if bound <= 0 or wrong == n:
        return 1.0
    return float(bdtr(wrong, n, bound)) if bound < 1 else 0.0


def binomial_bound(wrong: int, n: int, delta: float) -> float:
    """Upper confidence bound for the mean of losses of 0 and 1 (Clopper & Pearson, 1934): ``binomial_p`` inverted.

    >>> round(binomial_bound(0, 100, 0.05), 4)
    0.0295
    """
    from scipy.special import betaincinv

    _check_counts(wrong, 0, n)
    _check_share(delta)
    return 1.0 if wrong == n else float(betaincinv(wrong + 1, n - wrong, 1 - delta))


# --- losses between 0 and 1


def hoeffding_bentkus_p(mean: float, n: int, bound: float) -> float:
    """P-value from the ``mean`` of ``n`` losses in [0, 1] (Bates, Angelopoulos, Lei, Malik & Jordan, 2021).

    The smaller of Hoeffding's exp(-n kl(mean, bound)) and Bentkus' e P(Bin(n, bound) <= ceil(n mean)); both are bounds
    on the same tail of the same statistic, so that their minimum is one too.

    >>> round(hoeffding_bentkus_p(0.02, 1000, 0.04), 5)
    0.00081
    """
    from scipy.special import bdtr, rel_entr

    if not (0 <= mean <= 1 and n > 0):
        raise ValueError(f"a mean in [0, 1] of some losses, not {mean} of {n}")
    if bound <= mean or bound <= 0:
        return 1.0
    if bound >= 1:
        return 0.0
    divergence = rel_entr(mean, bound) + rel_entr(1 - mean, 1 - bound)
    # a mean of n losses that are whole numbers may lie an ulp above what it is
    bentkus = np.e * bdtr(min(ceil(n * mean - TIES), n), n, bound)
    return float(min(np.exp(-n * divergence), bentkus, 1.0))


def hoeffding_bentkus_bound(mean: float, n: int, delta: float) -> float:
    """Upper confidence bound for the mean of losses in [0, 1]: ``hoeffding_bentkus_p``, falling in the bound, inverted.

    >>> round(hoeffding_bentkus_bound(0.02, 1000, 0.05), 4)
    0.0315
    """
    _check_share(delta)
    return _least(lambda bound: hoeffding_bentkus_p(mean, n, bound) <= delta, mean, 1.0)


def betting_p(x: Floats, bound: float, delta: float = 0.05) -> float:
    """P-value from numbers ``x`` (n,) in [0, 1], in an order that does not depend on them.

    Follows Waudby-Smith & Ramdas (2024). A gambler who begins with 1 bets on the mean being below ``bound``:
    K_t = prod (1 + l_s (bound - x_s)). If it is not, K is a supermartingale, so that P(max K >= 1/p) <= p (Ville).
    The bets l_t are the predictable plug-in ones of the empirical Bernstein kind, which look only at what came before;
    ``delta`` is the level that they are tuned for, the p-value is valid at all. It costs little where the variance is
    small, whatever the distribution.

    >>> x = np.tile([0.0, 0.0, 0.0, 1.0, 0.0], 200)
    >>> betting_p(x, 0.25) < 0.01 < hoeffding_bentkus_p(0.2, 1000, 0.22)
    True
    """
    x = _unit(x)
    return float(np.exp(-max(_log_wealth(x, _bets(x, delta), bound), 0.0)))


def betting_bound(x: Floats, delta: float) -> float:
    """Upper confidence bound for the mean of ``x`` (n,) in [0, 1], as for ``betting_p``, which falls in the bound.

    >>> bound = betting_bound(np.tile([0.0, 0.5, 0.5, 1.0], 500), 0.05)
    >>> 0.5 < bound < 0.52
    True
    """
    x = _unit(x)
    bets, goal = _bets(x, delta), -log(delta)
    return _least(lambda bound: _log_wealth(x, bets, bound) >= goal, 0.0, 1.0)


def _bets(x: Floats, delta: float) -> Floats:
    """(n,) the bet on each number, made from those before it. The cap does not depend on the bound that is tested, so
    that every factor of the wealth rises with the bound."""
    _check_share(delta)
    count = np.arange(1, len(x) + 1)
    mean = (0.5 + np.cumsum(x)) / (count + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    return np.minimum(np.sqrt(-2 * log(delta) / (len(x) * before)), CAUTION)


def _log_wealth(x: Floats, bets: Floats, bound: float) -> float:
    """The most that there ever was, as a logarithm."""
    if not 0 < bound <= 1:  # no number is below 0, and none above 1
        return -inf if bound <= 0 else inf
    return float(np.cumsum(np.log1p(bets * (bound - x))).max())


# --- paired differences: losses of 0 and 1 against another's on the same examples


def paired_p(worse: int, better: int, n: int, bound: float, slack: float = SLACK) -> float:
    """P-value for the mean of ``n`` differences in {-1, 0, 1}, of which ``worse`` are 1 and ``better`` are -1.

    An exact unconditional test: the statistic is the score of the trinomial (McNemar's for ``bound`` 0, Tango's, 1998,
    for others), and the p-value the largest probability of a score this small over all trinomials of mean ``bound``
    (Barnard, 1947; Suissa & Shuster, 1991; Sidik, 2003). Those trinomials differ in one number, how often the two
    disagree, which is looked for in its exact confidence interval only, at the price of the interval's own error
    (Berger & Boos, 1994). That price, and what the largest may be missed by between the places that are looked at
    (``_most``), make up ``slack``, which is added. A test at level delta wants ``slack`` well below delta.

    As tight as a z-test would be if one could trust it, where a bound that knows the range alone (Hoeffding) has to
    reckon with differences that are all -1 or 1.

    >>> round(paired_p(30, 50, 1000, 0.0), 3), round(paired_p(40, 40, 1000, 0.02), 3)
    (0.014, 0.015)
    """
    _check_paired(worse, better, n, slack)
    if bound >= 1 or bound <= -1:
        impossible = bound > 1 or (bound == 1 and worse < n)
        return 0.0 if impossible else 1.0
    seen = float(_score(np.array(worse), np.array(better), n, bound))

    def least(a: Ints) -> Ints:
        """The fewest -1s with which ``a`` 1s score at most what was seen; n - a + 1 where none do."""
        low, high = np.zeros_like(a), n - a + 1
        while (low < high).any():
            middle = (low + high) // 2
            small = _score(a, np.minimum(middle, n - a), n, bound) <= seen + TIES
            small &= low < high
            high = np.where(small, middle, high)
            low = np.where(small | (low >= high), low, middle + 1)
        return low

    return _most(least, worse + better, n, bound, slack)


def slack_for(level: float) -> float:
    """A slack that costs next to nothing at a ``level``, and not too much time at a tiny one."""
    return level / (50 if level > SLACK else 5)


def paired_bound(worse: int, better: int, n: int, delta: float) -> float:
    """Upper confidence bound for the mean of ``n`` differences in {-1, 0, 1}, as for ``paired_p``.

    The same test with the plain sum as its statistic, inverted. The score's p-value need not fall in the bound, the
    sum's does: a trinomial with more 1s and fewer -1s has stochastically the larger sum, and the interval of the
    disagreement does not depend on the bound. It is wider by some percent than what ``paired_p`` could tell. For a tiny
    ``delta`` the difference of two Clopper-Pearson bounds, of half the level each.

    >>> 0.0 < paired_bound(30, 30, 1000, 0.05) < 0.017
    True
    """
    _check_share(delta)
    slack = slack_for(delta)
    _check_counts(worse, better, n)
    if delta < SMALL:
        return binomial_bound(worse, n, delta / 2) - (1 - binomial_bound(n - better, n, delta / 2))

    def small(bound: float) -> bool:
        return _most(lambda a: np.maximum(a - (worse - better), 0), worse + better, n, bound, slack) <= delta

    return _least(small, max((worse - better) / n, -1.0), 1.0)


def _score(a: Ints, c: Ints, n: int, bound: float) -> Floats:
    """(a - c - n bound) over its standard error under the likeliest trinomial whose mean is ``bound``."""
    linear = 2 * n * bound - (a + c) + (c - a) * bound
    rare = (np.sqrt(np.maximum(linear**2 + 8 * n * c * bound * (1 - bound), 0.0)) - linear) / (
        4 * n
    )  # the share of -1s there
    variance = n * np.maximum(2 * rare + bound - bound**2, 0.0)
    above = a - c - n * bound
    return np.asarray(np.divide(above, np.sqrt(variance), out=np.zeros(np.shape(above)), where=variance > 0))


def _most(least: Callable[[Ints], Ints], apart: int, n: int, bound: float, slack: float) -> float:
    """At least the largest probability of {(a, c): c >= least(a)} over trinomials of mean ``bound`` that disagree about
    as often as was seen (``apart`` of n times), plus what was given away.

    With the share of disagreement s = |bound| + (1 - |bound|) sin(t)^2 the log likelihood l of n examples has, for
    every t, Fisher information at most 4 n (1 - |bound|) and E|l''| at most 6 n (1 - |bound|). The probability of any
    set has the second derivative E[1_set (l'^2 + l'')], and E[l'^2 + l''] = 0, so that it is at most half the sum of
    these: 5 n (1 - |bound|). Between two places h apart it is thus at most h^2 / 8 times that above the larger of the
    two, whatever the set.

    Trinomials of a larger mean need no look: the set holds with every sample those of fewer 1s and of more -1s, and
    where as many disagree, a larger mean makes 1s likelier and -1s rarer.
    """
    from scipy.special import bdtrc, betaln, xlog1py, xlogy
    from scipy.stats import binom

    given, rest = slack / 10, 0.9 * slack - 4 * UNSEEN
    low, high = _disagreement(apart, n, given)
    size = 1 - abs(bound)
    if high < bound:
        return slack
    # Below 0 there are means above the bound too that disagree less often; of these none makes the set likelier than
    # the one that disagrees always for the better, |bound| of the time, which is therefore always among the places.
    low, high = max(low, abs(bound)), max(high, abs(bound))
    first, last = (asin(sqrt(min((s - abs(bound)) / size, 1.0))) for s in (low, high))
    places = np.linspace(first, last, int((last - first) / sqrt(8 * rest / (5 * n * size))) + 2)
    share = abs(bound) + size * np.sin(np.minimum(places, pi / 2)) ** 2
    up, down = ((share + sign * bound) / 2 for sign in (1, -1))
    down = np.maximum(down, 0.0)
    a = np.arange(binom.ppf(UNSEEN, n, max(up[0], 0.0)), binom.isf(UNSEEN, n, up[-1]) + 1).astype(int)
    c = np.minimum(least(a), n - a + 1)  # more there can't be
    ways = -betaln(a + 1, n - a + 1) - np.log(n + 1)
    most = 0.0
    for some in np.array_split(np.arange(len(places)), len(places) * len(a) // 2**20 + 1):
        p, q = np.maximum(up[some, None], 0.0), down[some, None]
        weight = np.exp(ways + xlogy(a, p) + xlog1py(n - a, -p))
        most = max(float((weight * bdtrc(c - 1.0, n - a, np.minimum(q / (1 - p), 1.0))).sum(axis=1).max()), most)
    return min(most + slack, 1.0)


@lru_cache(maxsize=4096)
def _disagreement(apart: int, n: int, error: float) -> tuple[float, float]:
    """Exact two-sided confidence interval for a share, from ``apart`` of ``n`` (Clopper & Pearson, 1934)."""
    from scipy.special import betaincinv

    low = float(betaincinv(apart, n - apart + 1, error / 2)) if apart else 0.0
    return low, binomial_bound(apart, n, error / 2)


# --- shared


def _least(enough: Callable[[float], bool], low: float, high: float) -> float:
    """The least number in [low, high] that is ``enough``, from above; ``high`` if none is. Whatever is above one that
    is enough is, too."""
    while high - low > RESOLUTION:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _unit(x: Floats) -> Floats:
    x = np.asarray(x, dtype=float)
    if x.ndim != 1 or not len(x) or not (x.min() >= 0 and x.max() <= 1):
        raise ValueError("some numbers in [0, 1]")
    return x


def _check_counts(some: int, others: int, n: int) -> None:
    if not (n > 0 and some >= 0 and others >= 0 and some + others <= n):
        raise ValueError(f"counts within {n} examples, not {some} and {others}")


def _check_paired(worse: int, better: int, n: int, slack: float) -> None:
    _check_counts(worse, better, n)
    if not 1e-9 <= slack < 1:
        raise ValueError(f"a slack from 1e-9 to 1, not {slack}")


def _check_share(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta between 0 and 1, not {delta}")
