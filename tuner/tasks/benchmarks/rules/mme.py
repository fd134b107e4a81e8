"""MME: two yes-no questions an image, worth more where both are right.

Source: lmms-eval 0.7.3, task ``mme``; the data set is that of Fu et al., arXiv 2306.13394. Kept
quirks: besides "y" and "n", one of the words anywhere in the first four letters is an answer, so
"none" and "another" are "no"; a category that is not one of perception counts as cognition;
categories are summed, each of at most 200 points.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from resprune.errors import StudyError
from tuner.tasks.benchmarks.rules._common import SHORT_ANSWER, Row, mean

_PERCEPTION = {
    *("existence", "count", "position", "color", "OCR"),
    *("posters", "celebrity", "scene", "landmark", "artwork"),
}
_ASKS_YES_OR_NO = " Please answer yes or no."
_PER_IMAGE = 2


def prompt(row: Row) -> str:
    """Return the text of the user turn."""
    return question(row) + SHORT_ANSWER


def question(row: Row) -> str:
    """Return the question without its own answer format."""
    return str(row["question"]).strip().replace(_ASKS_YES_OR_NO, "")


def answers(row: Row) -> tuple[str, ...]:
    """Return the gold answer, ``yes`` or ``no``."""
    return (_plain(row["answer"]),)


def score(prediction: str, row: Row) -> float:
    """Return 1 where the prediction reads as the gold answer."""
    return float(_read(prediction) == _plain(row["answer"]))


def summary(rows: Sequence[Row], predictions: Sequence[str]) -> dict[str, float]:
    """Return the points of perception and of cognition.

    A category's points are the mean, over its images, of the percentage of right answers and of
    another 100 where both are right.

    Args:
        rows: Rows of the data set, both questions of every image.
        predictions: One answer a row, in the same order.

    Raises:
        StudyError: An image with more or fewer than two questions.
    """
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row, prediction in zip(rows, predictions, strict=True):
        scores[row["category"]][row["question_id"]].append(score(prediction, row))
    totals = {"mme_perception_score": 0.0, "mme_cognition_score": 0.0}
    for category, images in scores.items():
        kind = "perception" if category in _PERCEPTION else "cognition"
        totals[f"mme_{kind}_score"] += mean(_points(category, *image) for image in images.items())
    return totals


def _points(category: str, image: str, scores: Sequence[float]) -> float:
    if len(scores) != _PER_IMAGE:
        raise StudyError(
            f"MME: {category}: image {image!r} has a score with {_PER_IMAGE} questions, found "
            f"{len(scores)}; take all questions of an image"
        )
    return 100.0 * (sum(scores) == _PER_IMAGE) + sum(scores) / _PER_IMAGE * 100.0


def _plain(text: str) -> str:
    return text.lower().strip().replace(".", "")


def _read(prediction: str) -> str:
    """Return what a prediction says: ``yes``, ``no``, or nothing."""
    text = _plain(prediction)
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text, "")
    return next((word for word in ("yes", "no") if word in text[:4]), "")
