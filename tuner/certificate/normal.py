"""The t test: approximate, for those who ask for it by name."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from resprune.errors import StudyError

LEAST_DISCORDANT = 20


def t_p_value(margins: npt.ArrayLike, discordant: int) -> float:
    """Return the p-value of 'the mean margin is 0 or more' by a one-sided t test over images.

    Args:
        margins: (C,) margins of images.
        discordant: Images that the two models scored differently.

    Raises:
        StudyError: Fewer than 20 discordant images, where it certifies falsely too often.
    """
    values = np.asarray(margins, dtype=np.float64)
    if discordant < LEAST_DISCORDANT:
        raise StudyError(
            f'study.objective.test: "t" with {discordant} images scored differently, under '
            f'{LEAST_DISCORDANT}, certifies falsely too often; use "auto"'
        )
    return float(t_p_values(len(values), np.sum(values), np.sum((values - values.mean()) ** 2)))


def t_p_values(
    images: int, total: npt.ArrayLike, squares: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Return p-values of the t test.

    Args:
        images: C.
        total: (...) sums of margins.
        squares: (...) sums of squared deviations from their means.
    """
    mean = np.asarray(total, dtype=np.float64) / images
    error = np.sqrt(np.asarray(squares, dtype=np.float64) / images / (images - 1))
    with np.errstate(divide="ignore", invalid="ignore"):  # no spread: sure, and 0 / 0 is no proof
        found: npt.NDArray[np.float64] = special.stdtr(images - 1, mean / error)
    return np.nan_to_num(found, nan=1.0)
