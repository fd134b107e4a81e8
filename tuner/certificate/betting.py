"""Testing by betting: valid whenever one looks (Waudby-Smith and Ramdas, arXiv 2010.09686).

Somebody bets against the claim's opposite, E Z >= 0 for the margins Z of images in random order:
each image multiplies a bet's stake by 1 - lambda Z, with 0 <= lambda < 1/B and B the largest
margin there can be. Where the claim is false no bet grows on average, so the wealth reaches
1 / (1 - confidence) with probability 1 - confidence at most, however often one looks (Ville).
The starting wealth is spread over 32 constant lambdas, which equals one predictable lambda
and needs no guess of the variance.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from resprune.certificate import Claim
from resprune.errors import StudyError
from tuner.certificate.margins import Bounds

_Floats = npt.NDArray[np.float64]
Verdict = Literal["certified", "refuted", "undecided"]
_BETS = 32
_ROUNDING = 1e-9  # share of the bound by which sums of margins may round over it


def stakes() -> tuple[_Floats, _Floats]:
    """Return the constant bets and what is staked on each.

    Returns:
        (32,) lambdas as shares of 1/B, within (0, 1), and (32,) shares of the wealth: the nodes
        and weights of Gauss and Jacobi for a density that grows as the root of lambda.
    """
    nodes, weights = special.roots_jacobi(_BETS, 0.0, 0.5)
    return (nodes + 1) / 2, weights / weights.sum()


def log_wealth(margins: npt.ArrayLike, bound: float) -> _Floats:
    """Return the logarithm of the wealth after each image.

    Args:
        margins: (C,) margins in the order drawn.
        bound: Largest margin there can be.

    Returns:
        (C,) log wealth; it starts at 0.

    Raises:
        StudyError: A margin over the bound, or not finite.
    """
    values = np.asarray(margins, dtype=np.float64)
    for value in values[~(np.isfinite(values) & (values <= bound * (1 + _ROUNDING)))][:1]:
        _refuse(float(value), bound)
    shares, weights = stakes()
    growth = np.cumsum(np.log1p(-np.outer(values, shares / bound)), axis=0)
    wealth: _Floats = special.logsumexp(growth, b=weights, axis=1)
    return wealth


def betting_p_value(margins: npt.ArrayLike, bound: float) -> float:
    """Return the p-value of the claim's opposite: 1 over the largest wealth there was.

    Args:
        margins: (C,) margins in the order drawn.
        bound: Largest margin there can be.

    Raises:
        StudyError: A margin over the bound, or not finite.
    """
    return math.exp(-float(np.max(log_wealth(margins, bound), initial=0.0)))


class Betting:
    """The test, one image after another.

    Args:
        claim: What is promised.
        questions_per_image: Questions of one image at most.
        clip: Where an unbounded metric is cut off from below.

    Attributes:
        images: Images seen.
        verdict: ``certified`` or ``refuted`` once the wealth of either side has reached
            1 / (1 - confidence), whichever did first; it does not change again.
    """

    def __init__(self, claim: Claim, questions_per_image: int, clip: float | None = None) -> None:
        bounds = Bounds.of(claim, questions_per_image, clip)
        self._level = 1 - claim.confidence
        self._for, self._against = _Side(bounds.above), _Side(bounds.below)
        self.images = 0
        self.verdict: Verdict = "undecided"

    def add(self, margin: float) -> Verdict:
        """See one image.

        Args:
            margin: Of the next image in the order drawn.

        Returns:
            The verdict by now.

        Raises:
            StudyError: A margin beyond its bounds, or not finite.
        """
        self._for.check(margin)
        self._against.check(-margin)
        self._for.add(margin)
        self._against.add(-margin)
        self.images += 1
        if self.verdict == "undecided":
            if self.p_value <= self._level:
                self.verdict = "certified"
            elif self.opposite_p_value <= self._level:
                self.verdict = "refuted"
        return self.verdict

    @property
    def wealth(self) -> float:
        """Wealth now of the bets for the claim; it started at 1."""
        return _exp(self._for.log_wealth)

    @property
    def opposite(self) -> float:
        """Wealth now of the bets for the claim's opposite."""
        return _exp(self._against.log_wealth)

    @property
    def p_value(self) -> float:
        """Of the claim's opposite: 1 over the largest wealth there was."""
        return math.exp(-self._for.largest)

    @property
    def opposite_p_value(self) -> float:
        """Of the claim."""
        return math.exp(-self._against.largest)


class _Side:
    """Bets on margins that are negative on average, in logarithms."""

    def __init__(self, bound: float) -> None:
        shares, self._weights = stakes()
        self._bound, self._lambdas = bound, shares / bound
        self._growth = np.zeros(len(shares))
        self.log_wealth = self.largest = 0.0

    def check(self, margin: float) -> None:
        if not margin <= self._bound * (1 + _ROUNDING) or not math.isfinite(margin):
            _refuse(margin, self._bound)

    def add(self, margin: float) -> None:
        self._growth += np.log1p(-self._lambdas * margin)
        self.log_wealth = float(special.logsumexp(self._growth, b=self._weights))
        self.largest = max(self.largest, self.log_wealth)


def _exp(logarithm: float) -> float:
    return math.exp(min(logarithm, 709.0))  # the largest there is


def _refuse(margin: float, bound: float) -> None:
    raise StudyError(
        f"betting: a margin of {margin:g} is beyond its bound {bound:g}; scores must lie within "
        "the metric's range and an image have no more than questions_per_image questions"
    )
