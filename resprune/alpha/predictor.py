"""The alpha predictor: features of a prompt -> expected loss of each alpha -> the best alpha."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resprune.alpha.features import FEATURE_NAMES, MAP_FEATURES
from resprune.alpha.reading import Place
from resprune.alpha.regressors import Floats, Ints, Regressor, read_regressor
from resprune.errors import ConfigError, near_names

PREDICTOR_FILE = "alpha_predictor.json"
PREDICTOR_SCHEMA = 1

Budget = int | float
_MAX_ALPHA = 16.0
_MAX_ALPHAS = 64
_MAX_BUDGETS = 64
_MIN_SCALE = 1e-9


@dataclass(frozen=True, eq=False)
class BudgetModel:
    """What is known about alpha at one budget.

    Attributes:
        budget: Visual tokens kept: a count (int) or a ratio (float).
        mean_losses: (A,) mean loss of each alpha over the fit split.
        strength: How far predictions are trusted, 0 (fixed alpha) to 1.
        regressor: Predicts each alpha's deviation from its mean loss, or None at strength 0.
    """

    budget: Budget
    mean_losses: Floats
    strength: float
    regressor: Regressor | None


class AlphaPredictor:
    """Predicts the loss of every alpha of a grid for a prompt, and chooses the least.

    Per budget the predicted loss is ``mean_losses + strength * regressor(features)``: at strength
    0 every prompt gets the best fixed alpha. Features are clipped to the range seen in fitting,
    so that a prompt unlike any of those cannot be extrapolated to.

    Args:
        feature_names: Which of `FEATURE_NAMES` are used (F').
        center: (F',) mean of each in fitting.
        scale: (F',) standard deviation of each, or 1 where it does not vary.
        low: (F',) least value seen.
        high: (F',) greatest value seen.
        alphas: (A,) grid, rising.
        models: One a budget.
    """

    def __init__(
        self,
        *,
        feature_names: tuple[str, ...],
        center: Floats,
        scale: Floats,
        low: Floats,
        high: Floats,
        alphas: Floats,
        models: tuple[BudgetModel, ...],
    ) -> None:
        self.feature_names = feature_names
        self.center = center
        self.scale = scale
        self.low = low
        self.high = high
        self.alphas = alphas
        self.models = models
        self._columns = np.array([FEATURE_NAMES.index(name) for name in feature_names], np.int64)
        self._missing = FEATURE_NAMES.index("map_missing")
        # fitted on images only: without one, the mean map says less wrong than a flat one
        knows_missing = "map_missing" in feature_names
        self._maps = np.array([not knows_missing and n in MAP_FEATURES for n in feature_names])

    # -- questions ------------------------------------------------------------------------

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """Budgets that it was fitted for."""
        return tuple(model.budget for model in self.models)

    def require_budget(self, budget: Budget, where: str = "alpha predictor") -> None:
        """Check that a budget was fitted.

        Raises:
            ConfigError: It was not; the message lists those that were.
        """
        self._model(budget, where)

    def strength(self, budget: Budget) -> float:
        """How far predictions are trusted at a budget; 0 means the fixed alpha for all."""
        return self._model(budget).strength

    def fixed_alpha(self, budget: Budget) -> float:
        """The best fixed alpha at a budget on the fit split; ties go to the smaller."""
        return float(self.alphas[int(np.argmin(self._model(budget).mean_losses))])

    def losses(self, features: npt.NDArray[np.floating], budget: Budget) -> Floats:
        """Predict the shrunk loss of each alpha.

        Args:
            features: (N, F) rows of `prompt_features`.
            budget: One of `budgets`.

        Returns:
            (N, A). Only differences within a row mean something: the level is the split's.

        Raises:
            ConfigError: Wrong width or a budget that was not fitted.
        """
        model = self._model(budget)
        rows = np.asarray(features, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(FEATURE_NAMES):
            raise ConfigError(
                f"alpha predictor: features have shape {rows.shape}, expected "
                f"(N, {len(FEATURE_NAMES)}) from prompt_features"
            )
        base = np.broadcast_to(model.mean_losses, (len(rows), len(self.alphas)))
        if model.regressor is None or model.strength == 0.0:
            return base.copy()
        return base + model.strength * model.regressor.predict(self.standardize(rows))

    def alphas_for(self, features: npt.NDArray[np.floating], budget: Budget) -> Floats:
        """Choose an alpha for each row of features (N, F); returns (N,).

        Ties go to the alpha nearest the fixed one, then to the smaller.
        """
        # rounded, so that a tie of equal losses does not hang on the last bit
        losses = np.round(self.losses(features, budget), 12)
        nearest: Ints = np.argsort(np.abs(self.alphas - self.fixed_alpha(budget)), kind="stable")
        chosen: Floats = self.alphas[nearest[np.argmin(losses[:, nearest], axis=1)]]
        return chosen

    def alpha(self, features: npt.NDArray[np.floating], budget: Budget) -> float:
        """Choose an alpha for one prompt's features (F,)."""
        return float(self.alphas_for(np.asarray(features)[None], budget)[0])

    def standardize(self, features: Floats) -> Floats:
        """Pick, clip and standardise the features used: (N, F) -> (N, F')."""
        picked = np.clip(features[:, self._columns], self.low, self.high)
        if self._maps.any():
            missing = features[:, self._missing] > 0.5
            picked = np.where(missing[:, None] & self._maps, self.center, picked)
        scaled: Floats = (picked - self.center) / self.scale
        return scaled

    def _model(self, budget: Budget, where: str = "alpha predictor") -> BudgetModel:
        for model in self.models:
            # 1 (a count) and 1.0 (a ratio: everything) are equal in Python, not here
            if model.budget == budget and type(model.budget) is type(budget):
                return model
        listed = ", ".join(str(b) for b in self.budgets)
        raise ConfigError(
            f"{where}: the alpha predictor has no budget {budget!r}; it was fitted for {listed}. "
            "Use one of them, a fixed alpha, or fit it again with this budget in the study"
        )

    # -- JSON -----------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data; `from_dict` of it predicts bit for bit the same."""
        return {
            "schema_version": PREDICTOR_SCHEMA,
            "features": list(self.feature_names),
            "center": self.center.tolist(),
            "scale": self.scale.tolist(),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "alphas": self.alphas.tolist(),
            "budgets": [
                {
                    "budget": model.budget,
                    "mean_losses": model.mean_losses.tolist(),
                    "strength": model.strength,
                    "model": None if model.regressor is None else model.regressor.to_dict(),
                }
                for model in self.models
            ],
        }

    @classmethod
    def from_dict(cls, data: Any, where: str = PREDICTOR_FILE) -> AlphaPredictor:
        """Read and check untrusted data.

        Args:
            data: The parsed JSON.
            where: File name, for messages.

        Returns:
            The predictor.

        Raises:
            ConfigError: Newer schema, a missing or unknown key, a wrong shape, a number that is
                not finite or out of range, an index out of range; names the place.
        """
        place = Place(data, where)
        version = place.number("schema_version", 1, 1e9)
        if version > PREDICTOR_SCHEMA:
            raise ConfigError(
                f"{where}: schema_version {version:g} is newer than {PREDICTOR_SCHEMA}, the newest "
                "that this resprune reads; upgrade resprune-tune"
            )
        place.no_others(
            ("schema_version", "features", "center", "scale", "low", "high", "alphas", "budgets")
        )
        names = place.names("features", len(FEATURE_NAMES))
        for name in names:
            if name not in FEATURE_NAMES:
                raise place.error(
                    "features", f"unknown feature {name!r}. {near_names(name, FEATURE_NAMES)}"
                )
        count = len(names)
        center, scale, low, high = (
            place.numbers(key, (count,)) for key in ("center", "scale", "low", "high")
        )
        if np.any(scale < _MIN_SCALE):
            raise place.error("scale", f"must be at least {_MIN_SCALE:g}")
        if np.any(low > high):
            raise place.error("low", "must not exceed high")
        alphas = place.numbers("alphas", (None,), most=_MAX_ALPHAS)
        if not len(alphas) or np.any(np.diff(alphas) <= 0):
            raise place.error("alphas", "must be a rising grid")
        if alphas[0] < 0 or alphas[-1] > _MAX_ALPHA:
            raise place.error("alphas", f"must lie within 0 to {_MAX_ALPHA:g}")
        models = tuple(
            _read_budget(entry, count, len(alphas))
            for entry in place.places("budgets", _MAX_BUDGETS)
        )
        budgets = [(type(m.budget), m.budget) for m in models]
        if len(set(budgets)) != len(budgets):
            raise place.error("budgets", "lists a budget twice")
        return cls(
            feature_names=names,
            center=center,
            scale=scale,
            low=low,
            high=high,
            alphas=alphas,
            models=models,
        )


def _read_budget(place: Place, features: int, alphas: int) -> BudgetModel:
    place.no_others(("budget", "mean_losses", "strength", "model"))
    budget = place.get("budget")
    count = type(budget) is int and 1 <= budget <= 10**6
    if not count and not (type(budget) is float and 0.0 < budget <= 1.0):
        raise place.error("budget", f"expected a count or a ratio up to 1.0, got {budget!r}")
    losses = place.numbers("mean_losses", (alphas,))
    strength = place.number("strength", 0.0, 1.0)
    regressor = None
    if place.get("model") is not None:
        regressor = read_regressor(
            Place(place.data["model"], f"{place.where}.model"), features, alphas
        )
    elif strength > 0:
        raise place.error("model", f"missing although strength is {strength:g}")
    return BudgetModel(budget, losses, strength, regressor)
