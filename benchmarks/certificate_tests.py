"""How often each test certifies what is just false (level) and what loses nothing (power).

    python -m benchmarks.certificate_tests --draws 4000

Studies are drawn from known rates, one question an image, and tested as a study would be. The
claim is 2 points at 95 % confidence. Each rate stands with its 95 % interval; `exact` also with the
sum over all tables, which is no estimate.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import stats

from resprune.certificate import Claim
from tuner.certificate import betting_p_value, exact_p_value, power, t_p_value
from tuner.certificate.normal import LEAST_DISCORDANT

_CLAIM = Claim(loss=0.02)
_IMAGES = (150, 300, 600, 1200)
_TURNED_RIGHT = (0.0, 0.002, 0.01, 0.05, 0.2)  # true shares; 2 points more turn wrong
_FLIPS = 0.03  # of answers, half each way, where nothing is lost
_Changes = npt.NDArray[np.float64]  # (images,) 1 where an answer turned wrong, -1 where right


def exact(changes: _Changes, seen: dict[tuple[int, int], float]) -> float:
    """Return the p-value of ``exact``; tables seen before are looked up."""
    table = int(np.sum(changes > 0)), int(np.sum(changes < 0))
    if table not in seen:
        seen[table] = exact_p_value(*table, len(changes), _CLAIM.loss)
    return seen[table]


def t(changes: _Changes, least: int) -> float:
    """Return the p-value of ``t``, 1 where fewer than ``least`` images are discordant."""
    discordant = int(np.sum(changes != 0))
    if discordant < least:
        return 1.0
    return t_p_value(changes - _CLAIM.loss, max(discordant, LEAST_DISCORDANT))


def share(passed: int, draws: int) -> str:
    """Return a rate with its 95 % interval."""
    low, high = stats.binomtest(passed, draws).proportion_ci()
    return f"{passed / draws:.3f} [{low:.3f}, {high:.3f}]"


def row(n: int, worse: float, better: float, draws: int) -> str:
    """Draw studies and return how often each test passes."""
    rng = np.random.default_rng([n, round(1e6 * worse), round(1e6 * better)])
    seen: dict[tuple[int, int], float] = {}
    tests: dict[str, Callable[[_Changes], float]] = {
        "exact": lambda changes: exact(changes, seen),
        "betting": lambda changes: betting_p_value(changes - _CLAIM.loss, 1 - _CLAIM.loss),
        "t": lambda changes: t(changes, LEAST_DISCORDANT),
        "t, never refused": lambda changes: t(changes, 0),
    }
    passed = dict.fromkeys(tests, 0)
    rates = [worse, better, 1 - worse - better]
    for _ in range(draws):
        changes = rng.choice([1.0, -1.0, 0.0], p=rates, size=n)
        for name, test in tests.items():
            passed[name] += test(changes) <= 1 - _CLAIM.confidence
    summed = power(n, worse, better, _CLAIM, "exact")
    cells = [f"{name} {share(count, draws)}" for name, count in passed.items()]
    return f"{n:5} images  worse {worse:.4f} better {better:.4f}  exact sum {summed:.3f}  " + (
        "  ".join(cells)
    )


def main() -> None:
    """Print both tables and the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=4000, help="studies a row")
    draws = parser.parse_args().draws
    print("level: the true loss is 2 points, so that the claim is just false")
    for n in _IMAGES:
        for better in _TURNED_RIGHT:
            print(row(n, better + _CLAIM.loss, better, draws), flush=True)
    print("power: nothing is lost")
    for n in _IMAGES:
        print(row(n, _FLIPS / 2, _FLIPS / 2, draws), flush=True)
    for n, (worse, better) in ((600, (100, 110)), (10_000, (2000, 1970))):
        start = time.process_time()
        exact_p_value(worse, better, n, _CLAIM.loss)
        print(f"exact at {n} images: {1000 * (time.process_time() - start):.0f} ms of one core")


if __name__ == "__main__":
    main()
