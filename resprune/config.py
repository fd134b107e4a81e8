"""The pruning config: the plain-JSON directory that a study exports and ``attach`` uses.

``PruningConfig.from_pretrained(DIR_OR_HUB_ID)`` reads ``pruning_config.json`` and, when an
entry's alpha is adaptive, ``alpha_predictor.json`` beside it.
"""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from resprune.alpha import PREDICTOR_FILE, AlphaPredictor
from resprune.errors import ConfigError, near_names
from resprune.files import read_json, write_json_files
from resprune.validation import StrictModel, explain, extra_keys, key_path, shown, without
from resprune.version import __version__

CONFIG_FILE = "pruning_config.json"
SCHEMA_VERSION = 1
ALPHA_MAX = 16.0


def _check_budget(value: object) -> object:
    """Say what a budget may be; pydantic would report on both of its types."""
    count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    ratio = isinstance(value, float) and 0.0 < value <= 1.0
    if count or ratio:
        return value
    raise ValueError(
        f"{shown(value)} is not a budget; write a count of visual tokens (a whole number, 1 or "
        "more) or a ratio (a decimal number over 0, up to 1.0)"
    )


def _check_alpha(value: object) -> object:
    """Say what an alpha may be; a whole number becomes a float."""
    if value == "adaptive":
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= ALPHA_MAX:
        return float(value)
    raise ValueError(
        f"{shown(value)} is not an alpha; write a number from 0 to {ALPHA_MAX:g}, or 'adaptive'"
    )


SeedStrategy = Literal["cls_attention", "received_attention", "l2_norm", "relevance", "none"]
Pooling = Literal["max", "mean", "pooled"]
Normalization = Literal["minmax", "shift", "clip"]
Positions = Literal["keep", "compact"]
Budget = Annotated[int | float, BeforeValidator(_check_budget)]
Alpha = Annotated[float | Literal["adaptive"], BeforeValidator(_check_alpha)]

# ResPrune, arXiv 2603.21105, section 4: the settings the paper names, by family. A family it
# did not test starts from l2_norm and alpha 0.5 and is marked untested.
PAPER_DEFAULTS: dict[str, tuple[float, SeedStrategy]] = {
    "llava": (0.75, "cls_attention"),
    "llava_next": (0.75, "cls_attention"),
    "qwen2_5_vl": (0.3, "l2_norm"),
}
UNTESTED_DEFAULT: tuple[float, SeedStrategy] = (0.5, "l2_norm")


class BackboneRef(StrictModel):
    """The model that a config was made for.

    Attributes:
        family: Backbone family, for example ``llava``; another family is an error.
        id: Model id or folder name; a different one only warns.
        revision: Hub revision, or None.
        width: Width d of the LLM's input embeddings; another width is an error.
        visual_tokens: Visual tokens T of an image where the family fixes it, else None.
    """

    family: str
    id: str | None = None
    revision: str | None = None
    width: int | None = Field(default=None, ge=1)
    visual_tokens: int | None = Field(default=None, ge=1)


class NounOptions(StrictModel):
    """How nouns are taken from the question.

    Attributes:
        pipeline: spaCy pipeline, or None for the best one installed.
        version: Its version, pinned by an export.
        compounds: Join adjacent nouns.
        stop_nouns: Nouns to ignore, lower case.
    """

    pipeline: str | None = None
    version: str | None = None
    compounds: bool = False
    stop_nouns: tuple[str, ...] = Field(default=(), strict=False)


class BudgetEntry(StrictModel):
    """One row of the table: at this budget, this alpha and seed strategy.

    Attributes:
        budget: Visual tokens to keep per image: a count (int >= 1) or a ratio (0 < float <= 1).
        alpha: Exponent of the relevance, 0 to 16, or ``adaptive``.
        seed_strategy: How the first token is chosen.
    """

    budget: Budget
    alpha: Alpha
    seed_strategy: SeedStrategy = "l2_norm"


class PruningConfig(StrictModel):
    """A pruning config (DESIGN.md, "The exported config").

    Attributes:
        schema_version: Version of this layout; a newer one is refused.
        library_version: Version that wrote the file.
        backbone: What it was made for, or None for a hand-written config.
        method: Name in ``resprune.methods.names()``.
        budgets: The table, one entry a budget.
        default_budget: The entry used when the caller names none.
        pooling: How relevance pools over nouns.
        normalization: How relevance is normalised per image.
        eps: Floor of the normalised relevance.
        positions: Position ids of kept tokens: original (``keep``) or dense (``compact``).
        nouns: How nouns are taken from the question.
        untested: True for defaults that neither the paper nor a study has tested.
    """

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1)
    library_version: str = __version__
    backbone: BackboneRef | None = None
    method: str = "resprune"
    budgets: tuple[BudgetEntry, ...] = Field(min_length=1, strict=False)
    default_budget: Budget
    pooling: Pooling = "max"
    normalization: Normalization = "minmax"
    eps: float = Field(default=0.01, gt=0.0, le=1.0)
    positions: Positions = "keep"
    nouns: NounOptions = NounOptions()
    untested: bool = False

    _predictor: AlphaPredictor | None = None

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        from resprune import methods

        if value not in methods.names():
            raise ValueError(f"unknown method {value!r}. {near_names(value, methods.names())}")
        return value

    @model_validator(mode="after")
    def _table_holds_together(self) -> Self:
        seen = [_key(entry.budget) for entry in self.budgets]
        listed = self._listed()
        if len(set(seen)) != len(seen):
            raise ValueError(f"budgets lists a budget twice ({listed}); keep one entry a budget")
        if _key(self.default_budget) not in seen:
            raise ValueError(
                f"default_budget {self.default_budget} is not in the table; it lists {listed}"
            )
        total = self.backbone.visual_tokens if self.backbone else None
        over = [b for kind, b in seen if total and kind == "count" and b > total]
        if over:
            raise ValueError(
                f"budget {over[0]} is over the {total} visual tokens that the backbone gives an "
                f"image; write 1 to {total}, or a ratio"
            )
        return self

    def _listed(self) -> str:
        return ", ".join(str(entry.budget) for entry in self.budgets)

    # -- making one ---------------------------------------------------------------------

    @classmethod
    def single(
        cls,
        budget: int | float,
        *,
        alpha: float = UNTESTED_DEFAULT[0],
        seed_strategy: SeedStrategy = UNTESTED_DEFAULT[1],
        **options: Any,
    ) -> PruningConfig:
        """Make a config with one budget.

        Args:
            budget: Count (int) or ratio (float) of visual tokens to keep per image.
            alpha: Fixed alpha.
            seed_strategy: How the first token is chosen.
            **options: Any other field of the config.

        Returns:
            The config.

        Raises:
            ConfigError: A value is out of range; the message says what is allowed.
        """
        entry = {"budget": budget, "alpha": alpha, "seed_strategy": seed_strategy}
        return cls.from_dict({"budgets": [entry], "default_budget": budget, **options})

    @classmethod
    def paper_default(cls, family: str, budget: int | float, **options: Any) -> PruningConfig:
        """Make the paper's setting for a family (ResPrune, arXiv 2603.21105).

        Args:
            family: Backbone family. One that the paper did not test gets ``l2_norm`` and
                alpha 0.5 and is marked ``untested``.
            budget: Count or ratio of visual tokens to keep per image.
            **options: Any other field of the config.

        Returns:
            The config.
        """
        alpha, seed_strategy = PAPER_DEFAULTS.get(family, UNTESTED_DEFAULT)
        options.setdefault("untested", family not in PAPER_DEFAULTS)
        return cls.single(budget, alpha=alpha, seed_strategy=seed_strategy, **options)

    @classmethod
    def from_dict(
        cls,
        data: dict[str, Any],
        *,
        predictor: AlphaPredictor | None = None,
        where: str = "pruning config",
    ) -> PruningConfig:
        """Validate plain data.

        Args:
            data: The JSON object.
            predictor: The alpha predictor of its adaptive entries.
            where: Name of the source, for messages.

        Returns:
            The config.

        Raises:
            ConfigError: Newer schema, unknown key, value out of range, or an adaptive entry
                without a predictor for its budget.
        """
        if not isinstance(data, dict):
            raise ConfigError(f"{where}: expected a JSON object, found {type(data).__name__}")
        version = data.get("schema_version", SCHEMA_VERSION)
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise ConfigError(
                f"{where}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest "
                f"this resprune {__version__} reads; upgrade resprune-tune"
            )
        config = cls._validated(data, where)
        adaptive = [entry.budget for entry in config.budgets if entry.alpha == "adaptive"]
        if adaptive and predictor is None:
            raise ConfigError(
                f"{where}: alpha is 'adaptive' at budget {adaptive} but there is no alpha "
                f"predictor; put {PREDICTOR_FILE} beside it or write a number for alpha"
            )
        if predictor is not None:
            for budget in adaptive:
                predictor.require_budget(budget, where)
        config._predictor = predictor
        return config

    @classmethod
    def _validated(cls, data: dict[str, Any], where: str) -> Self:
        """Validate, leaving out with a warning the keys that only a newer library knows."""
        writer = data.get("library_version")
        newer = isinstance(writer, str) and _is_newer(writer)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            unknown = extra_keys(error)
            if not (newer and unknown):
                hint = f" (written by resprune {writer}, newer than {__version__})" if newer else ""
                raise ConfigError(f"{where}: {explain(error, cls)}{hint}") from None
        warnings.warn(
            f"{where}: written by resprune {writer}, newer than this {__version__}; ignoring "
            f"unknown keys {', '.join(key_path(place) for place in unknown)}",
            stacklevel=4,
        )
        return cls._validated(without(data, unknown), where)

    # -- using it -----------------------------------------------------------------------

    @property
    def predictor(self) -> AlphaPredictor | None:
        """The alpha predictor of the adaptive entries, or None."""
        return self._predictor

    def entry(self, budget: int | float | None = None) -> BudgetEntry:
        """Look a budget up in the table.

        Args:
            budget: A budget of the table, or None for the default one.

        Returns:
            Its entry.

        Raises:
            ConfigError: The budget is not in the table.
        """
        wanted = self.default_budget if budget is None else budget
        for entry in self.budgets:
            if _key(entry.budget) == _key(wanted):
                return entry
        raise ConfigError(
            f"budget {wanted!r} is not in the pruning config; it lists {self._listed()}"
        )

    # -- files --------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], *, revision: str | None = None
    ) -> PruningConfig:
        """Read a config from a folder or from the hub.

        Args:
            source: Folder that holds ``pruning_config.json``, or a hub id.
            revision: Hub revision.

        Returns:
            The config, with its alpha predictor when it has one.

        Raises:
            ConfigError: Missing, unreadable, or wrong; the message names file and fix.
        """
        folder = _folder(source, revision)
        path = folder / CONFIG_FILE
        if not path.is_file():
            raise ConfigError(
                f"{folder}: no {CONFIG_FILE} here; `resprune-tune export` writes one "
                "(config.json is the model's own and is not read)"
            )
        predictor = None
        if (folder / PREDICTOR_FILE).is_file():
            data = read_json(folder / PREDICTOR_FILE)
            predictor = AlphaPredictor.from_dict(data, where=str(folder / PREDICTOR_FILE))
        return cls.from_dict(read_json(path), predictor=predictor, where=str(path))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``pruning_config.json`` (and ``alpha_predictor.json``) into a folder.

        Files are written beside and renamed, so an interrupted write leaves the old ones.

        Args:
            folder: Created when missing.

        Raises:
            ConfigError: The folder cannot be written.
        """
        target = Path(folder)
        files: dict[Path, Any] = {}
        if self._predictor is not None:
            files[target / PREDICTOR_FILE] = self._predictor.to_dict()
        files[target / CONFIG_FILE] = self.to_dict()
        try:
            target.mkdir(parents=True, exist_ok=True)
            write_json_files(files)
            if self._predictor is None:
                (target / PREDICTOR_FILE).unlink(missing_ok=True)  # of a config replaced here
        except OSError as error:
            raise ConfigError(f"{target}: cannot write the config ({error.strerror})") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the plain JSON object that ``pruning_config.json`` holds.

        Its ``library_version`` is that of this library, whichever wrote what was read.
        """
        data: dict[str, Any] = self.model_dump(mode="json")
        return {**data, "library_version": __version__}

    def push_to_hub(self, repo_id: str, *, private: bool | None = None) -> str:
        """Upload the config (no weights) to a model repository on the hub.

        Args:
            repo_id: ``user/name``; created when missing.
            private: Whether a created repository is private.

        Returns:
            Address of the commit.
        """
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            commit = api.upload_folder(repo_id=repo_id, folder_path=folder)
        return str(commit.commit_url)


def _key(budget: object) -> tuple[str, Any]:
    """Tell 1 (a count) from 1.0 (a ratio: every token), which are equal in Python."""
    if isinstance(budget, bool):
        return ("neither", budget)
    if hasattr(budget, "__index__"):  # NumPy's integers too
        return ("count", int(cast(int, budget)))
    return ("ratio", budget)


def _folder(source: str | os.PathLike[str], revision: str | None) -> Path:
    """Return the folder that a path or a hub id stands for."""
    name = os.fspath(source)
    if not name.strip():
        raise ConfigError("the config's folder is an empty name; give a folder or a hub id")
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            return path
        if path.exists():
            raise ConfigError(f"{name}: a file; give the folder that holds {CONFIG_FILE}")
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror})") from error
    if not isinstance(source, str) or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise ConfigError(f"{name}: no such folder, and not a hub id of the form user/name")
    return _download(name, revision)


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    wanted = [CONFIG_FILE, PREDICTOR_FILE]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:  # hub errors have no common base; all mean "not had from there"
        said = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"{name}: no such folder, and the hub did not give it ({type(error).__name__}: {said})"
        ) from error


def _is_newer(version: str) -> bool:
    def key(text: str) -> list[int]:
        release = re.match(r"\d{1,9}(\.\d{1,9})*", text)
        return [int(part) for part in release[0].split(".")] if release else []

    return key(version) > key(__version__)
