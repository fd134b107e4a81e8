"""The alpha predictor: features of a prompt -> expected loss of each arm -> the best arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field, ValidationError, model_validator

from resprune.alpha.arms import Arms, least, nearest_first
from resprune.alpha.arrays import Bools, Floats, Ints, Vector, expect
from resprune.alpha.features import FEATURE_NAMES, MAP_FEATURES
from resprune.alpha.forms import form_digest
from resprune.alpha.regressors import Regressor
from resprune.budget import Budget, BudgetLike, read_budget
from resprune.errors import ConfigError, near_names
from resprune.validation import StrictModel, explain, shown

PREDICTOR_FILE = "alpha_predictor.json"
PREDICTOR_SCHEMA = 3

_MAX_BUDGETS = 64
_MIN_SCALE = 1e-9
_MAX_FORMS = 100_000
# the widest of n samples is not the edge of all prompts, and features move with dtype and batch
_MARGIN = 0.05
_ROUNDING = 1e-9  # where a feature does not vary


def _known(name: str) -> str:
    if name not in FEATURE_NAMES:
        raise ValueError(f"unknown feature {shown(name)}. {near_names(name, FEATURE_NAMES)}")
    return name


class BudgetModel(StrictModel):
    """What is known about the arms at one budget.

    Attributes:
        budget: Visual tokens kept.
        mean_losses: (A,) mean loss of each arm over the fit split.
        strength: How far predictions are trusted, 0 (the best fixed arm) to 1.
        model: Predicts each arm's deviation from its mean loss; None at strength 0.
    """

    budget: Budget
    mean_losses: Vector
    strength: float = Field(ge=0.0, le=1.0)
    model: Regressor | None

    @model_validator(mode="after")
    def _trusts_a_model(self) -> Self:
        if self.strength > 0 and self.model is None:
            raise ValueError(f"model: missing although strength is {self.strength:g}")
        return self


class PredictorData(StrictModel):
    """What an alpha predictor was fitted to: its JSON file.

    Attributes:
        schema_version: Of the file.
        features: Which of `FEATURE_NAMES` are used (F').
        center: (F',) mean of each in fitting.
        scale: (F',) standard deviation of each, or 1 where it does not vary.
        low: (F',) least value seen.
        high: (F',) greatest value seen.
        arms: A arms.
        forms: Digests of the question forms seen in fitting; None in files of an earlier schema,
            which kept none.
        budgets: One model a budget.
    """

    schema_version: int = Field(default=PREDICTOR_SCHEMA, ge=PREDICTOR_SCHEMA, le=PREDICTOR_SCHEMA)
    features: list[Annotated[str, AfterValidator(_known)]] = Field(
        min_length=1, max_length=len(FEATURE_NAMES)
    )
    center: Vector
    scale: Vector
    low: Vector
    high: Vector
    arms: Arms
    forms: list[Annotated[str, Field(pattern="^[0-9a-f]{16}$")]] | None = Field(
        max_length=_MAX_FORMS
    )
    budgets: list[BudgetModel] = Field(min_length=1, max_length=_MAX_BUDGETS)

    @model_validator(mode="before")
    @classmethod
    def _of_any_schema(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        version, grid = data.get("schema_version"), data.get("alphas")
        if isinstance(version, int) and version > PREDICTOR_SCHEMA:
            raise ValueError(
                f"schema_version {version} is newer than {PREDICTOR_SCHEMA}, the newest that this "
                "resprune reads; upgrade resprune-tune"
            )
        if version == 1:  # it chose among alphas alone
            numbers = isinstance(grid, list) and all(isinstance(a, int | float) for a in grid)
            if grid is None or not numbers or grid != sorted(set(grid)):
                raise ValueError(f"alphas: must be a rising grid, not {shown(grid)}")
            kept = {key: value for key, value in data.items() if key != "alphas"}
            arms = [{"alpha": alpha} for alpha in grid]
            return {**kept, "schema_version": PREDICTOR_SCHEMA, "arms": arms, "forms": None}
        if version == 2:  # it knew no forms
            return {**data, "schema_version": PREDICTOR_SCHEMA, "forms": None}
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        count = len(self.features)
        if len(set(self.features)) != count:
            raise ValueError("features: expected distinct names")
        for key in ("center", "scale", "low", "high"):
            expect(key, getattr(self, key), count)
        if np.any(self.scale < _MIN_SCALE):
            raise ValueError(f"scale: must be at least {_MIN_SCALE:g}")
        if np.any(self.low > self.high):
            raise ValueError("low: must not exceed high")
        for place, entry in enumerate(self.budgets):
            expect(f"budgets[{place}].mean_losses", entry.mean_losses, len(self.arms))
            if entry.model is not None:
                try:
                    entry.model.check(count, len(self.arms))
                except ValueError as error:
                    raise ValueError(f"budgets[{place}].model: {error}") from None
        if len({entry.budget for entry in self.budgets}) != len(self.budgets):
            raise ValueError("budgets: lists a budget twice")
        return self


class AlphaPredictor:
    """Predicts the loss of every arm for a prompt, and chooses the least.

    Per budget the predicted loss is ``mean_losses + strength * model(features)``: at strength 0
    every prompt gets the best fixed arm. So does, at any strength, a prompt outside what was fitted
    (see `outside`): nothing is known of it. Features are clipped to the range seen in fitting.

    Args:
        data: What it was fitted to.
    """

    def __init__(self, data: PredictorData) -> None:
        self.data = data
        self._models = {entry.budget: entry for entry in data.budgets}
        self._columns = np.array([FEATURE_NAMES.index(name) for name in data.features], np.int64)
        self._missing = FEATURE_NAMES.index("map_missing")
        # fitted on images only: without one, the mean map says less wrong than a flat one
        knows_missing = "map_missing" in data.features
        self._maps = np.array([not knows_missing and n in MAP_FEATURES for n in data.features])
        self._forms = None if data.forms is None else frozenset(data.forms)

    # -- questions ------------------------------------------------------------------------

    @property
    def arms(self) -> tuple[Mapping[str, float | str], ...]:
        """The arms: values of per-prompt options."""
        return tuple(self.data.arms)

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """Budgets that it was fitted for."""
        return tuple(self._models)

    def require_budget(self, budget: BudgetLike, where: str = "alpha predictor") -> None:
        """Check that a budget was fitted.

        Raises:
            ConfigError: It was not; the message lists those that were.
        """
        self._model(budget, where)

    def strength(self, budget: BudgetLike) -> float:
        """How far predictions are trusted at a budget; 0 means the best fixed arm for all."""
        return self._model(budget).strength

    def fallback(self, budget: BudgetLike) -> int:
        """The best fixed arm at a budget on the fit split; ties go to the earlier."""
        return int(np.argmin(self._model(budget).mean_losses))

    def losses(self, features: npt.NDArray[np.floating], budget: BudgetLike) -> Floats:
        """Predict the shrunk loss of each arm.

        Args:
            features: (N, F) rows of `prompt_features`.
            budget: One of `budgets`.

        Returns:
            (N, A). Only differences within a row mean something: the level is the split's.

        Raises:
            ConfigError: Wrong width or a budget that was not fitted.
        """
        entry = self._model(budget)
        rows = self._rows(features)
        base = np.broadcast_to(entry.mean_losses, (len(rows), len(self.data.arms)))
        if entry.model is None or entry.strength == 0.0:
            return base.copy()
        return base + entry.strength * entry.model.predict(self.standardize(rows))

    def outside(self, features: npt.NDArray[np.floating], forms: Sequence[str]) -> Bools:
        """Say which prompts are unlike those that it was fitted on.

        One is where its question form was not seen, or where a feature in use lies further beyond
        the range seen than 5 % of that range. A file of an earlier schema knows no forms: nothing
        is outside it, and features are clipped.

        Args:
            features: (N, F) rows of `prompt_features`.
            forms: What `question_form` gives for each.

        Returns:
            (N,) booleans.

        Raises:
            ConfigError: Wrong width, or forms of another number.
        """
        rows = self._rows(features)
        if len(forms) != len(rows):
            raise ConfigError(
                f"alpha predictor: {len(forms)} question forms for {len(rows)} rows of features; "
                "give one each"
            )
        if self._forms is None:
            return np.zeros(len(rows), dtype=np.bool_)
        picked, low, high = self._pick(rows), self.data.low, self.data.high
        margin = _MARGIN * (high - low) + _ROUNDING
        beyond = (picked < low - margin) | (picked > high + margin)
        unseen = np.array([form_digest(form) not in self._forms for form in forms], dtype=np.bool_)
        found: Bools = np.any(beyond, axis=1) | unseen
        return found

    def arms_for(
        self, features: npt.NDArray[np.floating], forms: Sequence[str], budget: BudgetLike
    ) -> Ints:
        """Choose an arm for each prompt.

        Ties go to the arm nearest the best fixed one, then to the earlier.

        Args:
            features: (N, F) rows of `prompt_features`.
            forms: What `question_form` gives for each.
            budget: One of `budgets`.

        Returns:
            (N,) indices; the best fixed arm where a prompt is `outside`.

        Raises:
            ConfigError: Wrong width, forms of another number, or a budget that was not fitted.
        """
        fallback = self.fallback(budget)
        chosen = least(self.losses(features, budget), nearest_first(self.data.arms, fallback))
        return np.where(self.outside(features, forms), fallback, chosen)

    def standardize(self, features: Floats) -> Floats:
        """Pick, clip and standardise the features used: (N, F) -> (N, F')."""
        data = self.data
        picked = np.clip(self._pick(features), data.low, data.high)
        scaled: Floats = (picked - data.center) / data.scale
        return scaled

    def _pick(self, features: Floats) -> Floats:
        """The features used (N, F'), with the mean map where there is none."""
        picked: Floats = features[:, self._columns]
        if self._maps.any():
            missing = features[:, self._missing] > 0.5
            picked = np.where(missing[:, None] & self._maps, self.data.center, picked)
        return picked

    def _rows(self, features: npt.NDArray[np.floating]) -> Floats:
        rows = np.asarray(features, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(FEATURE_NAMES):
            raise ConfigError(
                f"alpha predictor: features have shape {rows.shape}, expected "
                f"(N, {len(FEATURE_NAMES)}) from prompt_features"
            )
        return rows

    def _model(self, budget: BudgetLike, where: str = "alpha predictor") -> BudgetModel:
        found = self._models.get(read_budget(budget))
        if found is None:
            listed = ", ".join(str(b) for b in self.budgets)
            raise ConfigError(
                f"{where}: the alpha predictor has no budget {budget}; it was fitted for "
                f"{listed}. Use one of them, a fixed arm, or fit it again with this budget in "
                "the study"
            )
        return found

    # -- JSON -----------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data; `from_dict` of it predicts bit for bit the same."""
        return self.data.model_dump()

    @classmethod
    def from_dict(cls, data: Any, where: str = PREDICTOR_FILE) -> AlphaPredictor:
        """Read and check untrusted data.

        Args:
            data: The parsed JSON, of this schema or an earlier one.
            where: File name, for messages.

        Returns:
            The predictor.

        Raises:
            ConfigError: Newer schema, a missing or unknown key, a wrong shape, a number that is
                not finite or out of range, an index out of range; names the place.
        """
        try:
            return cls(PredictorData.model_validate(data))
        except ValidationError as error:
            problem = explain(error, PredictorData)
        raise ConfigError(f"{where}: {problem}; mend it or export the config again")
