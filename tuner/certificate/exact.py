"""The unconditional exact test that a paired proportion falls by less than a loss.

Each of n images has one question, scored 0 or 1 by two models: ``worse`` counts right answers that
turned wrong, ``better`` wrong ones that turned right. Tables are ordered by Tango's score (1998,
Statistics in Medicine 17:891); the p-value is the largest probability, under the claim's opposite,
of a table that speaks for the claim at least as much as the one seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft, special

from resprune.errors import ResPruneError

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_TIE = 1e-9  # scores this close are one score, so that rounding splits no ties
_NEGLECTED, _ROUGHLY = 32.0, 18.0  # nats: single terms below exp(-32) are left out
_TRAILING = 1e-6  # largest of the last coefficients of an expansion that is long enough
_FINER = 256  # points looked at for each one computed


def exact_p_value(worse: int, better: int, n: int, loss: float) -> float:
    """Return the p-value of 'the share of right answers falls by ``loss`` or more'.

    Args:
        worse: Images whose right answer turned wrong (b).
        better: Images whose wrong answer turned right (c).
        n: All images.
        loss: Greatest loss of the claim, exclusive, in (0, 1).

    Returns:
        The largest probability of the tail over the nuisance parameter, see ``largest_tail``.

    Raises:
        ResPruneError: Counts that are negative or over n, or a loss outside (0, 1).
    """
    if n < 1 or min(worse, better) < 0 or worse + better > n:
        raise ResPruneError(
            f"exact test: {worse} worse and {better} better of {n} images; give counts of 0 or "
            "more whose sum is at most the images, at least 1"
        )
    if not 0.0 < loss < 1.0:
        raise ResPruneError(f"exact test: loss {loss} is outside (0, 1)")
    return largest_tail(float(score(worse, better, n, loss)), n, loss)


def score(worse: npt.ArrayLike, better: npt.ArrayLike, n: int, loss: float) -> _Floats:
    """Return Tango's score of tables at a true loss of ``loss``; low speaks for the claim.

    It rises with ``worse`` and falls with ``better`` (so the largest probability of a tail lies on
    the boundary of the claim; a test checks it for every table of many n).

    Args:
        worse: (...) b.
        better: (...) c.
        n: Images.
        loss: Of the claim.
    """
    b, c = np.asarray(worse, dtype=np.float64), np.asarray(better, dtype=np.float64)
    half = (2 * n - b + c) * loss - b - c
    root = np.sqrt(half**2 + 8 * n * c * loss * (1 - loss))
    # the likeliest share of 'better' where the true loss is `loss`: a root of 2nq^2 + half q = ...,
    # in the form without cancellation
    tiny = np.finfo(np.float64).tiny
    share = np.where(
        half > 0, 2 * c * loss * (1 - loss) / np.maximum(half + root, tiny), (root - half) / (4 * n)
    )
    found: _Floats = (b - c - n * loss) / np.sqrt(n * (2 * share + loss * (1 - loss)))
    return found


def tail_probability(
    at_most: float, n: int, loss: float, worse_rate: npt.ArrayLike, better_rate: npt.ArrayLike
) -> _Floats:
    """Return the probability that a table's score is ``at_most`` or lower.

    Args:
        at_most: The score.
        n: Images.
        loss: Of the claim, which the score is made for.
        worse_rate: (R,) true shares p_b.
        better_rate: (R,) true shares p_c.

    Returns:
        (R,) probabilities, right to 1e-9.
    """
    worse, better = np.atleast_1d(worse_rate), np.atleast_1d(better_rate)
    return _Tail.of(at_most, n, loss).probability(
        worse.astype(np.float64), better.astype(np.float64)
    )


def largest_tail(at_most: float, n: int, loss: float) -> float:
    """Return the largest probability of a score ``at_most`` or lower where the claim is false.

    On the boundary p_b = p_c + loss the probability is a polynomial of degree n in p_c. It is
    computed at m Chebyshev points of [0, (1 - loss) / 2], which lie as dense as it can turn: some
    2.5 sqrt(n), more until the coefficients of its expansion have died out (1e-6). The expansion
    is looked at in 256 m points, and the polynomial itself computed at the highest. Between such points a polynomial of degree m rises by a factor of at most
    1 / cos(pi / 512) = 1.00002 (M. Riesz), so the largest probability lies at most that factor,
    and about 1e-6, above what is returned.

    Args:
        at_most: The score.
        n: Images.
        loss: Of the claim.
    """
    tail = _Tail.of(at_most, n, loss)
    top = (1.0 - loss) / 2

    def points(count: int) -> _Floats:
        found: _Floats = top * np.sin(np.pi / 2 * np.arange(count + 1) / count) ** 2
        return found

    m = int(2.5 * math.sqrt(n)) + 32
    while True:
        better = points(m)
        computed = tail.probability(better + loss, better, _ROUGHLY)
        coefficients = fft.dct(computed, type=1) / m
        if m >= n or np.abs(coefficients[-8:]).max() <= _TRAILING:
            break
        m = 3 * m // 2
    padded = np.zeros(_FINER * m + 1)
    padded[: m + 1] = coefficients
    padded[m] /= 2  # an end of the short expansion, but not of the long one
    finest = np.argmax(fft.dct(padded, type=1))
    highest = np.array([better[computed.argmax()], points(_FINER * m)[finest]])
    return float(min(1.0, tail.probability(highest + loss, highest).max()))


def critical_score(n: int, loss: float, level: float) -> float:
    """Return a score, within .005 of the highest, whose p-value is at most ``level``.

    Tables with that score or a lower one are certified.

    Args:
        n: Images.
        loss: Of the claim.
        level: One minus the confidence.
    """
    target = float(special.ndtri(level))
    low, high = -math.inf, math.inf  # p(low) <= level < p(high)
    guess = target
    while True:
        p = largest_tail(guess, n, loss)
        low, high = (guess, high) if p <= level else (low, guess)
        if high - low <= 0.005:
            return low
        # p is near the normal's, so its error there is the step to take, a little beyond
        step = target - float(special.ndtri(min(max(p, 1e-12), 1 - 1e-12)))
        guess += step + math.copysign(0.002, step)
        if not low < guess < high:
            guess = (low + high) / 2 if math.isfinite(low + high) else guess + step


@dataclass(frozen=True)
class _Tail:
    """The tables whose score is low enough: for each count of ``better`` a most of ``worse``.

    Attributes:
        n: Images.
        most: (n + 1,) largest count of ``worse`` in the tail, -1 where there is none.
    """

    n: int
    most: _Ints

    @classmethod
    def of(cls, at_most: float, n: int, loss: float) -> _Tail:
        """Find the tail by bisection, since the score rises with ``worse``."""
        better = np.arange(n + 1)
        low, high = np.full(n + 1, -1), n - better
        limit = at_most + _TIE * (1 + abs(at_most))
        while (low < high).any():
            middle = (low + high + 1) // 2
            inside = score(middle, better, n, loss) <= limit
            low, high = np.where(inside, middle, low), np.where(inside, high, middle - 1)
        return cls(n, low)

    def probability(
        self, worse_rate: _Floats, better_rate: _Floats, neglected: float = _NEGLECTED
    ) -> _Floats:
        """Sum binomial(c | n, p_c) times the distribution of b given c, over likely c.

        Args:
            worse_rate: (R,) p_b.
            better_rate: (R,) p_c.
            neglected: Terms below exp(-neglected), by Bernstein's bounds, are left out.

        Returns:
            (R,) probabilities.
        """
        n = self.n
        variance = n * better_rate * (1 - better_rate)
        third = neglected / 3
        reach = third + np.sqrt(third**2 + 2 * neglected * variance)
        first = np.maximum(0, np.floor(n * better_rate - reach)).astype(np.int64)
        last = np.minimum(n, np.ceil(n * better_rate + reach)).astype(np.int64)
        sizes = last - first + 1
        row = np.repeat(np.arange(len(sizes)), sizes)
        c = np.arange(sizes.sum()) + (first - np.cumsum(sizes) + sizes)[row]
        row, c = row[self.most[c] >= 0], c[self.most[c] >= 0]
        most, left = self.most[c], n - c
        factorials = special.gammaln(np.arange(n + 1) + 1.0)
        log_choose = factorials[n] - factorials - factorials[::-1]
        log_share = (
            log_choose[c]
            + special.xlogy(c, better_rate[row])
            + special.xlog1py(left, -better_rate[row])
        )
        rate = np.minimum(1.0, worse_rate[row] / (1 - better_rate[row]))
        beyond = most - left * rate
        spread = left * rate + np.maximum(beyond, 0) / 3 + np.finfo(np.float64).tiny
        sure = log_share - beyond**2 / (2 * spread) < -neglected  # nothing, or all of it
        inside = np.where(beyond > 0, 1.0, 0.0)
        asked = ~sure
        inside[asked] = special.bdtr(most[asked].astype(np.float64), left[asked], rate[asked])
        found = np.bincount(row, weights=np.exp(log_share) * inside, minlength=len(sizes))
        return found.astype(np.float64)
