"""Policies on a split: their plans and their scores, whether fixed or chosen by prompt."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from resprune.alpha import AlphaPredictor
from resprune.plan import Plan
from resprune.setting import Adaptive, Setting
from tuner.scoring.split import Split

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def policy_scores(
    split: Split, policy: Setting | Adaptive, predictor: AlphaPredictor | None
) -> Floats:
    """Score a policy on every sample of a split, shape (N,).

    Args:
        split: The split.
        policy: A setting, or arms.
        predictor: The arms' predictor.
    """
    if isinstance(policy, Setting):
        return split.score(policy)
    assert predictor is not None
    arms = predictor.arms_for(split.features(), policy.budget)
    scores: Floats = split.score_plans([plans_by_prompt(split, policy, arms)])[0]
    return scores


def plans_by_prompt(split: Split, policy: Adaptive, arms: Ints) -> list[Plan]:
    """Plan every sample under the arm chosen for it, an index of ``arms`` (N,)."""
    used = sorted(set(arms.tolist()))
    plans = dict(zip(used, split.plans([policy.arms[arm] for arm in used]), strict=True))
    return [plans[arm][i] for i, arm in enumerate(arms.tolist())]
