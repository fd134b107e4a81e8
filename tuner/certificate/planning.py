"""How many images a claim needs, before a run and after a failure.

Rates are per question with scores of 0 or 1, one question an image: ``worse_rate`` is the share of
right answers turned wrong, ``better_rate`` of wrong ones turned right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from resprune.certificate import Claim, TestName
from resprune.errors import StudyError
from tuner.certificate.betting import log_wealth, stakes
from tuner.certificate.choose import resolve_test
from tuner.certificate.exact import (
    critical_score,
    deviation,
    exact_p_value,
    largest_tail,
    score,
    tail_probability,
)
from tuner.certificate.margins import Bounds
from tuner.certificate.normal import LEAST_DISCORDANT, t_p_values

_Floats = npt.NDArray[np.float64]
_DRAWS = 2000  # simulated studies: power within .02
_LOOKS = 200  # at the wealth of one, at most; the test itself looks after every image
_LARGE = 3000  # images from which the exact test's normal limit does
_REPEATS = 64  # how often the same margins are tried again
_LOSS_STEPS = 1000
_FOREVER = 10**7  # images past which nobody plans


def power(
    n: int,
    worse_rate: float,
    better_rate: float,
    claim: Claim,
    test: TestName,
    unpruned: float | None = None,
) -> float:
    """Return the probability that a policy is certified.

    Args:
        n: Images.
        worse_rate: True share of right answers turned wrong.
        better_rate: True share of wrong answers turned right.
        claim: What is promised.
        test: How it is tested; ``exact`` is summed over tables, the others simulated (seeded).
        unpruned: Mean score of the unpruned model, for a relative claim.

    Raises:
        StudyError: Rates that are none, a relative claim without ``unpruned`` or by ``exact``.
    """
    resolve_test(test, claim, True, 1)
    guess = _Guess.of(worse_rate, better_rate, claim, unpruned)
    if test == "exact":
        return _exact_power(n, guess, claim)
    if test == "t":
        return _t_power(n, guess, claim)
    return float(np.mean(_crossings(guess, claim, n) <= n))


def images_needed(
    worse_rate: float,
    better_rate: float,
    claim: Claim,
    test: TestName,
    power: float = 0.8,
    unpruned: float | None = None,
) -> int | None:
    """Return with how many images a policy is certified with probability ``power``.

    Args:
        worse_rate: True share of right answers turned wrong.
        better_rate: True share of wrong answers turned right.
        claim: What is promised.
        test: How it is tested.
        power: The probability.
        unpruned: Mean score of the unpruned model, for a relative claim.

    Returns:
        The images, within about 1 %; None where the policy loses what the claim excludes, or
        where ten million are not enough.

    Raises:
        StudyError: Rates that are none, a relative claim without ``unpruned`` or by ``exact``.
    """
    resolve_test(test, claim, True, 1)
    guess = _Guess.of(worse_rate, better_rate, claim, unpruned)
    if guess.mean >= 0:
        return None
    start = max(16, _normal_images(guess, claim, power))
    if test == "betting":
        horizon = 2 * start
        while horizon <= _FOREVER:
            reached = np.quantile(_crossings(guess, claim, horizon), power, method="higher")
            if reached <= horizon:
                return int(reached)
            horizon *= 2
        return None
    run = _exact_power if test == "exact" else _t_power
    return _fewest(lambda n: run(n, guess, claim) >= power, start)


def images_to_pass(worse: int, better: int, n: int, loss: float, confidence: float) -> int | None:
    """Return with how many images, at the rates seen, ``exact`` would have certified.

    Args:
        worse: Images whose right answer turned wrong.
        better: Images whose wrong answer turned right.
        n: Images there were.
        loss: Of the claim.
        confidence: Of the claim.

    Returns:
        The images, within about 1 %, at least ``n``; None where the loss seen is not below the
        claim's, or where ten million are not enough.
    """
    if (worse - better) / n >= loss:
        return None
    claim = Claim(loss=loss, confidence=confidence)
    guess = _Guess.of(worse / n, better / n, claim, None)

    def passes(images: int) -> bool:
        if images > max(n, _LARGE):
            return _normal_images(guess, claim, 0.5) <= images
        rates = worse / n, better / n  # the score takes parts of an image
        seen = float(score(rates[0] * images, rates[1] * images, images, loss))
        return largest_tail(seen, images, loss) <= 1 - confidence

    return n if passes(n) else _fewest(passes, max(n + 1, _normal_images(guess, claim, 0.5)), n)


def images_to_bet(margins: Sequence[float], bound: float, confidence: float) -> int | None:
    """Return with how many images ``betting`` would have certified, were the next like these.

    Args:
        margins: (C,) margins seen, in their order.
        bound: Largest margin there can be.
        confidence: Of the claim.

    Returns:
        The images at which the wealth, with the same margins again and again, gets there; None
        where their mean is not below 0, or where 64 times as many are not enough.
    """
    if sum(margins) >= 0:
        return None
    first = log_wealth(margins, bound)
    target = -math.log(1 - confidence)
    if first.max() >= target:
        return int(np.argmax(first >= target)) + 1
    shares, weights = stakes()
    growth = np.cumsum(np.log1p(-np.outer(margins, shares / bound)), axis=0)
    for repeat in range(1, _REPEATS):
        wealth = special.logsumexp(growth + repeat * growth[-1], b=weights, axis=1)
        if wealth.max() >= target:
            return repeat * len(margins) + int(np.argmax(wealth >= target)) + 1
    return None


def least_images(loss: float, confidence: float) -> int:
    """Return the fewest images that can certify by ``exact`` where no answer turns right.

    With fewer, a policy whose true loss is ``loss`` turns none wrong too often:
    (1 - loss)^n > 1 - confidence.

    Args:
        loss: Of the claim.
        confidence: Of the claim.
    """
    return math.ceil(math.log(1 - confidence) / math.log(1 - loss))


def images_to_prove(
    claim: Claim,
    test: TestName,
    improves: bool = True,
    questions_per_image: int = 1,
    clip: float | None = None,
) -> int:
    """Return the fewest images on which any outcome at all proves the claim.

    Args:
        claim: What is promised.
        test: How it is tested.
        improves: Whether an answer can turn right: not so with ``fidelity``.
        questions_per_image: Questions of one image at most.
        clip: Where an unbounded metric is cut off from below.

    Raises:
        StudyError: As ``Bounds.of``.
    """
    level = 1 - claim.confidence
    if test == "exact":
        n = 1 if improves else least_images(claim.loss, claim.confidence)
        while exact_p_value(0, n if improves else 0, n, claim.loss) > level:
            n += 1
        return n
    if test == "t":
        if improves:
            return LEAST_DISCORDANT

        def passes(n: int) -> bool:  # as many worse as the test asks for, and no more
            share = LEAST_DISCORDANT / n
            total, squares = n * (share - claim.loss), n * share * (1 - share)
            return bool(t_p_values(n, total, squares) <= level)

        return _first(passes, LEAST_DISCORDANT)
    bounds = Bounds.of(claim, questions_per_image, clip)
    best = bounds.below if improves else questions_per_image * claim.loss
    shares, weights = stakes()
    growth = np.log1p(best * shares / bounds.above)
    return _first(lambda n: bool(special.logsumexp(n * growth, b=weights) >= -math.log(level)), 0)


def smallest_loss(
    images: int,
    confidence: float,
    test: TestName,
    improves: bool = True,
    questions_per_image: int = 1,
) -> float | None:
    """Return the smallest loss, in steps of .001, that some outcome on so many images proves.

    Args:
        images: Images of the certify split.
        confidence: Of the claim.
        test: How it is tested.
        improves: Whether an answer can turn right: not so with ``fidelity``.
        questions_per_image: Questions of one image at most.

    Returns:
        The loss, absolute, of scores from 0 to 1; None where there is none.
    """

    def proves(step: int) -> bool:
        claim = Claim(loss=step / _LOSS_STEPS, confidence=confidence)
        return images_to_prove(claim, test, improves, questions_per_image) <= images

    most = _LOSS_STEPS - 1
    if not proves(most):
        return None
    return _first(lambda step: step >= most or proves(step), 0) / _LOSS_STEPS


def require_provable(
    images: int,
    claim: Claim,
    test: TestName,
    improves: bool = True,
    questions_per_image: int = 1,
    clip: float | None = None,
) -> None:
    """Refuse a claim that no outcome could prove.

    Args:
        images: Images of the certify split.
        claim: What is promised.
        test: How it is tested.
        improves: Whether an answer can turn right: not so with ``fidelity``.
        questions_per_image: Questions of one image at most.
        clip: Where an unbounded metric is cut off from below.

    Raises:
        StudyError: Too few images; the number that would do is named.
    """
    needed = images_to_prove(claim, test, improves, questions_per_image, clip)
    if images < needed:
        raise StudyError(
            f"task.certify: no outcome on {images} images can prove a loss below {claim.loss:g} "
            f"at confidence {claim.confidence:g} by {test}; give at least {needed} images, or "
            "claim less"
        )


@dataclass(frozen=True)
class _Guess:
    """The margins of one question, as believed.

    Attributes:
        worse: Share of right answers turned wrong.
        better: Share of wrong answers turned right.
        values: (V,) margins there are.
        shares: (V,) how often.
    """

    worse: float
    better: float
    values: _Floats
    shares: _Floats

    @classmethod
    def of(cls, worse: float, better: float, claim: Claim, unpruned: float | None) -> _Guess:
        if not (worse >= 0 and better >= 0 and worse + better <= 1):
            raise StudyError(
                f"planning: shares {worse:g} worse and {better:g} better; give shares whose sum is "
                "at most 1"
            )
        loss = claim.loss
        if claim.scale == "absolute":
            values, shares = [1 - loss, -1 - loss, -loss], [worse, better, 1 - worse - better]
            return cls(worse, better, np.array(values), np.array(shares))
        if unpruned is None or not worse <= unpruned <= 1 - better:
            raise StudyError(
                f"planning: unpruned score {unpruned} with shares {worse:g} worse and {better:g} "
                f"better; a relative claim needs one between {worse:g} and {1 - better:g}"
            )
        values = [1 - loss, -1.0, -loss, 0.0]
        shares = [worse, better, unpruned - worse, 1 - better - unpruned]
        return cls(worse, better, np.array(values), np.array(shares))

    @property
    def mean(self) -> float:
        return float(self.values @ self.shares)

    @property
    def variance(self) -> float:
        return float(self.values**2 @ self.shares) - self.mean**2


def _normal_images(guess: _Guess, claim: Claim, power: float) -> int:
    """Return the images for a power by the normal limit."""
    believed = float(deviation(guess.worse, guess.better, 1, claim.loss))
    reach = special.ndtri(claim.confidence) * believed
    reach += special.ndtri(power) * math.sqrt(max(guess.variance, 0.0))
    return math.ceil(min(float(max(reach, 0.0) ** 2 / guess.mean**2), _FOREVER))


def _exact_power(n: int, guess: _Guess, claim: Claim) -> float:
    level = 1 - claim.confidence
    if n > _LARGE:
        reach = special.ndtri(level) * float(deviation(guess.worse, guess.better, 1, claim.loss))
        return float(
            special.ndtr(
                (reach - math.sqrt(n) * guess.mean) / math.sqrt(max(guess.variance, 1e-12))
            )
        )
    critical = critical_score(n, claim.loss, level)
    return float(tail_probability(critical, n, claim.loss, guess.worse, guess.better)[0])


def _t_power(n: int, guess: _Guess, claim: Claim) -> float:
    if n < LEAST_DISCORDANT:
        return 0.0
    drawn = np.random.default_rng(0).multinomial(n, guess.shares, size=_DRAWS)
    total = drawn @ guess.values
    p_values = t_p_values(n, total, drawn @ guess.values**2 - total**2 / n)
    enough = drawn[:, :2].sum(axis=1) >= LEAST_DISCORDANT
    return float(np.mean(enough & (p_values <= 1 - claim.confidence)))


def _crossings(guess: _Guess, claim: Claim, horizon: int) -> _Floats:
    """Simulate studies and return, for each, at how many images betting certified (else inf)."""
    rng = np.random.default_rng(0)
    shares, weights = stakes()
    lambdas = shares / Bounds.of(claim, 1).above
    growth = np.log1p(-np.outer(guess.values, lambdas))
    looks = np.unique(np.linspace(1, horizon, _LOOKS).astype(np.int64))
    crossed = np.full(_DRAWS, np.inf)
    counts = np.zeros((_DRAWS, len(guess.values)))
    for look, step in zip(looks, np.diff(looks, prepend=0), strict=True):
        on = np.isinf(crossed)
        counts[on] += rng.multinomial(step, guess.shares, size=on.sum())
        wealth = np.exp(np.minimum(counts[on] @ growth, 600.0)) @ weights
        crossed[np.flatnonzero(on)[wealth >= 1 / (1 - claim.confidence)]] = look
    return crossed


def _fewest(enough: Callable[[int], bool], start: int, low: int = 0) -> int | None:
    """Return the fewest images that are enough, within 1 %, by doubling and bisection."""
    high = start
    while not enough(high):
        low, high = high, max(high + 1, high * 5 // 4)
        if high > _FOREVER:
            return None
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _first(enough: Callable[[int], bool], low: int) -> int:
    """Return the first number over ``low`` from which on ``enough`` holds."""
    high = low + 1
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
