"""The pruning config: the plain-JSON directory that a study exports and ``attach`` uses.

``PruningConfig.from_pretrained(DIR_OR_HUB_ID)`` reads ``pruning_config.json`` and, when an
entry's alpha is adaptive, ``alpha_predictor.json`` beside it.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from resprune.alpha import PREDICTOR_FILE, AlphaPredictor
from resprune.errors import ConfigError, near_names
from resprune.version import __version__

CONFIG_FILE = "pruning_config.json"
SCHEMA_VERSION = 1
MAX_FILE_BYTES = 16 * 2**20  # a config is a few kB; refuse to parse something else
ALPHA_MAX = 16.0

SeedStrategy = Literal["cls_attention", "received_attention", "l2_norm", "relevance", "none"]
Pooling = Literal["max", "mean", "pooled"]
Normalization = Literal["minmax", "shift", "clip"]
Positions = Literal["keep", "compact"]
FixedAlpha = Annotated[float, Field(ge=0.0, le=ALPHA_MAX, allow_inf_nan=False)]
Budget = Annotated[int, Field(ge=1, strict=True)] | Annotated[float, Field(gt=0.0, le=1.0)]

# ResPrune, arXiv 2603.21105, section 4: the settings the paper names, by family. A family it
# did not test starts from l2_norm and alpha 0.5 and is marked untested.
PAPER_DEFAULTS: dict[str, tuple[float, SeedStrategy]] = {
    "llava": (0.75, "cls_attention"),
    "llava_next": (0.75, "cls_attention"),
    "qwen2_5_vl": (0.3, "l2_norm"),
}
UNTESTED_DEFAULT: tuple[float, SeedStrategy] = (0.5, "l2_norm")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class BackboneRef(_Strict):
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


class NounOptions(_Strict):
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
    stop_nouns: tuple[str, ...] = ()


class BudgetEntry(_Strict):
    """One row of the table: at this budget, this alpha and seed strategy.

    Attributes:
        budget: Visual tokens to keep per image: a count (int >= 1) or a ratio (0 < float <= 1).
        alpha: Exponent of the relevance, 0 to 16, or ``adaptive``.
        seed_strategy: How the first token is chosen.
    """

    budget: Budget
    alpha: FixedAlpha | Literal["adaptive"]
    seed_strategy: SeedStrategy = "l2_norm"


class PruningConfig(_Strict):
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

    schema_version: int = SCHEMA_VERSION
    library_version: str = __version__
    backbone: BackboneRef | None = None
    method: str = "resprune"
    budgets: tuple[BudgetEntry, ...] = Field(min_length=1)
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
        seen = [entry.budget for entry in self.budgets]
        if len(set(seen)) != len(seen):
            raise ValueError(f"budgets lists a budget twice: {seen}; keep one entry a budget")
        if self.default_budget not in seen:
            raise ValueError(
                f"default_budget {self.default_budget} is not in the table; it lists {seen}"
            )
        return self

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
        data = _drop_newer_keys(cls, data, where)
        try:
            config = cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(f"{where}: {_explain(error, cls)}") from None
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
            # 1 (a count) and 1.0 (a ratio: everything) are equal in Python, not here
            if entry.budget == wanted and type(entry.budget) is type(wanted):
                return entry
        listed = ", ".join(str(entry.budget) for entry in self.budgets)
        raise ConfigError(f"budget {wanted!r} is not in the pruning config; it lists {listed}")

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
        folder = Path(source)
        if not folder.is_dir():
            folder = _download(str(source), revision)
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
        try:
            target.mkdir(parents=True, exist_ok=True)
            if self._predictor is not None:
                write_json(target / PREDICTOR_FILE, self._predictor.to_dict())
            else:
                (target / PREDICTOR_FILE).unlink(missing_ok=True)
            write_json(target / CONFIG_FILE, self.to_dict())
        except OSError as error:
            raise ConfigError(f"{target}: cannot write the config ({error.strerror})") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the plain JSON object that ``pruning_config.json`` holds."""
        return self.model_dump(mode="json")

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


def read_json(path: Path) -> Any:
    """Read a small JSON file that may come from anyone.

    Raises:
        ConfigError: Unreadable, too large, not UTF-8 or not JSON; names the file and place.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes; not a config")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not a JSON text file; export the config again") from error
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno} "
            f"({error.msg}); mend it or export the config again"
        ) from error


def write_json(path: Path, data: Any) -> None:
    """Write JSON beside ``path`` and rename it, so no half-written file is ever seen."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
        beside.write_text(text + "\n", encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _download(source: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        folder = snapshot_download(
            source, revision=revision, allow_patterns=[CONFIG_FILE, PREDICTOR_FILE]
        )
    except HFValidationError:
        raise ConfigError(f"{source}: no such folder, and not a hub id of the form user/name") from None
    except Exception as error:  # hub errors have no common base; all mean "not reachable"
        raise ConfigError(
            f"{source}: no such folder, and the hub did not give it ({type(error).__name__}: "
            f"{str(error).splitlines()[0]})"
        ) from error
    return Path(folder)


def _drop_newer_keys(cls: type[BaseModel], data: dict[str, Any], where: str) -> dict[str, Any]:
    """Warn about and drop unknown keys of a file that a newer library wrote."""
    unknown = sorted(set(data) - set(cls.model_fields))
    if not unknown or not _is_newer(str(data.get("library_version", "0"))):
        return data
    warnings.warn(
        f"{where}: written by resprune {data['library_version']}, newer than {__version__}; "
        f"ignoring unknown keys {unknown}",
        stacklevel=4,
    )
    return {key: value for key, value in data.items() if key not in unknown}


def _is_newer(version: str) -> bool:
    def key(text: str) -> list[int]:
        return [int(part) if part.isdigit() else 0 for part in text.split(".")[:3]]

    return key(version) > key(__version__)


def _explain(error: ValidationError, cls: type[BaseModel]) -> str:
    """Say in one line what is wrong, where, and what is allowed."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"]) or "config"
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])
        fields = cls.model_fields if len(problem["loc"]) == 1 else {}
        known = near_names(name, fields) if fields else "Remove it."
        return f"unknown key {place!r}. {known}"
    given = "" if problem["type"] == "missing" else f", got {problem['input']!r}"
    return f"{place}: {problem['msg']}{given}"
