"""Fit the alpha predictor on per-sample outcomes of every arm: ``fit_alpha(...)``.

A decision problem: which arm is best for one sample is mostly noise, so nothing is regressed to
that. The loss of every arm is predicted from the prompt's features, shrunk towards the split's
means, and the arm of least predicted loss is taken. Regressor and strength are chosen per budget by
cross-validation over images and over wordings; where no gain is shown, the best fixed arm serves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from resprune.alpha import (
    FEATURE_NAMES,
    AlphaPredictor,
    Arms,
    BudgetModel,
    PredictorData,
    Regressor,
    form_digest,
)
from resprune.budget import Budget
from resprune.errors import StudyError
from resprune.validation import explain
from tuner.alpha.adoption import MIN_FORMS, CvRow, adopt
from tuner.alpha.candidates import fit_candidate
from tuner.alpha.cross_validation import FOLDS, cross_validate
from tuner.alpha.guard import Evidence
from tuner.alpha.scaling import Scaler

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AlphaFit:
    """A fitted predictor and why it is what it is.

    Attributes:
        predictor: Ready to be exported.
        strengths: By budget; 0 where it falls back to the best fixed arm.
        reasons: By budget, why it falls back; empty where it does not.
        cv: Every try, per budget.
        feature_weights: Mean change of a predicted loss when one feature is shuffled among the
            fit split, over budgets, in units of the loss; features never used are 0.
    """

    predictor: AlphaPredictor
    strengths: dict[Budget, float]
    reasons: dict[Budget, str]
    cv: tuple[CvRow, ...]
    feature_weights: dict[str, float]


def fit_alpha(
    features: npt.ArrayLike,
    losses: Mapping[Budget, npt.ArrayLike],
    arms: Sequence[Mapping[str, float | str]],
    clusters: npt.ArrayLike,
    *,
    forms: Sequence[str],
    seed: int,
    surrogate: Mapping[Budget, npt.ArrayLike] | None = None,
) -> AlphaFit:
    """Fit an alpha predictor.

    Args:
        features: (N, F) rows of `resprune.alpha.prompt_features`.
        losses: By budget, (N, A) loss of each sample at each arm: 1 - score, which decides.
        arms: A arms: values of the same per-prompt options; ties go to the earlier.
        clusters: (N,) image of each sample; folds and standard errors keep images whole.
        forms: N question forms (`resprune.alpha.question_form`): the wordings that are served by
            prompt; any other gets the best fixed arm.
        seed: Draws folds, trees and the signs of the test.
        surrogate: By budget, (N, A) smoother losses (negative log-likelihoods, clipped), which
            regressors are fitted on in equal parts with the losses but which never decide; or
            None.

    Returns:
        The predictor with its cross-validation.

    Raises:
        StudyError: Shapes do not match, values are not finite, arms that are not distinct values
            of the same options, not one form a sample, or too few images.
    """
    x = _matrix(features, "features", None, len(FEATURE_NAMES))
    n = len(x)
    family = _family(arms)
    if not losses:
        raise StudyError("alpha fit: no budget to fit; give losses for at least one")
    y = {b: _matrix(v, f"losses at budget {b}", n, len(family)) for b, v in losses.items()}
    smooth = {
        b: _matrix(v, f"surrogate at budget {b}", n, len(family))
        for b, v in (surrogate or {}).items()
    }
    if smooth and smooth.keys() != y.keys():
        raise StudyError(
            f"alpha fit: surrogate has budgets {', '.join(map(str, smooth))}, losses have "
            f"{', '.join(map(str, y))}"
        )
    groups = np.unique(np.asarray(clusters), return_inverse=True)[1]
    if groups.shape != (n,) or groups.max(initial=0) + 1 < 2 * FOLDS:
        raise StudyError(
            f"alpha fit: {groups.max(initial=-1) + 1} images for {n} samples; needs one image "
            f"label a sample and at least {2 * FOLDS} images: enlarge the fit split"
        )

    wordings, form_of = np.unique(np.asarray(forms, dtype=np.str_), return_inverse=True)
    if form_of.shape != (n,):
        raise StudyError(f"alpha fit: {len(forms)} question forms for {n} samples; give one each")

    by_image = cross_validate(x, y, smooth, family, groups, seed).evidence(seed)
    by_wording: dict[Budget, list[Evidence]] = {}
    if len(wordings) >= MIN_FORMS:
        by_wording = cross_validate(x, y, smooth, family, form_of, seed).evidence(seed)
    scaler = Scaler.of(x)
    z = scaler(x)
    fitted: dict[str, list[Regressor]] = {}
    rows: list[CvRow] = []
    reasons: dict[Budget, str] = {}
    models: list[BudgetModel] = []
    images = int(groups.max()) + 1
    for i, (budget, loss) in enumerate(y.items()):
        table, reasons[budget] = adopt(
            budget, by_image[budget], by_wording.get(budget), images, len(wordings)
        )
        rows += table
        best = next((row for row in table if row.chosen), None)
        if best is not None and best.candidate not in fitted:
            fitted[best.candidate] = fit_candidate(best.candidate, z, y, smooth, seed)
        models.append(
            BudgetModel(
                budget=budget,
                mean_losses=loss.mean(axis=0),
                strength=0.0 if best is None else best.strength,
                model=None if best is None else fitted[best.candidate][i],
            )
        )
    predictor = AlphaPredictor(
        PredictorData(
            features=[FEATURE_NAMES[c] for c in scaler.columns],
            center=scaler.center,
            scale=scaler.scale,
            low=scaler.low,
            high=scaler.high,
            arms=family,
            forms=sorted(map(form_digest, wordings.tolist())),
            budgets=models,
        )
    )
    return AlphaFit(
        predictor,
        {model.budget: model.strength for model in models},
        reasons,
        tuple(rows),
        _feature_weights(predictor, x, seed),
    )


def _feature_weights(predictor: AlphaPredictor, x: Floats, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    active = [b for b in predictor.budgets if predictor.strength(b) > 0]
    weights = dict.fromkeys(FEATURE_NAMES, 0.0)
    before = {b: predictor.losses(x, b) for b in active}
    for name in predictor.data.features if active else ():
        shuffled = x.copy()
        column = FEATURE_NAMES.index(name)
        shuffled[:, column] = rng.permutation(shuffled[:, column])
        moved = [np.abs(predictor.losses(shuffled, b) - before[b]).mean() for b in active]
        weights[name] = float(np.mean(moved))
    return weights


def _family(arms: Sequence[Mapping[str, float | str]]) -> Arms:
    if len(arms) < 2:
        raise StudyError(f"alpha fit: {len(arms)} arms leave nothing to choose; give 2 or more")
    try:
        return TypeAdapter(Arms).validate_python([dict(arm) for arm in arms])
    except ValidationError as error:
        raise StudyError(f"alpha fit: arms: {explain(error, PredictorData)}") from None


def _matrix(value: npt.ArrayLike, what: str, rows: int | None, columns: int) -> Floats:
    array = np.asarray(value, dtype=np.float64)
    wanted = ("N" if rows is None else rows, columns)
    if array.ndim != 2 or array.shape[1] != columns or rows not in (None, len(array)):
        raise StudyError(f"alpha fit: {what} has shape {array.shape}, expected {wanted}")
    if not np.isfinite(array).all():
        raise StudyError(f"alpha fit: {what} is not finite; clip or drop those samples")
    return array
