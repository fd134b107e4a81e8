"""The pruning config: the plain-JSON directory that a study exports and ``attach`` uses.

``PruningConfig.from_pretrained(DIR_OR_HUB_ID)`` reads ``pruning_config.json`` and, where a policy
of its table is adaptive, the predictor's JSON beside it.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import FailFast, Field, ValidationError, model_validator

from resprune import hub
from resprune.alpha import AlphaPredictor
from resprune.budget import Budget, BudgetLike, Count, Energy, Ratio, read_budget
from resprune.certificate import Certificate, policy_digest
from resprune.config_schema1 import Schema1
from resprune.errors import ConfigError, ResPruneError
from resprune.files import read_json, write_json_files
from resprune.newer import is_newer, without_newer_keys
from resprune.options import Positions, value_of
from resprune.setting import (
    PAPER_DEFAULTS,
    PREDICTOR_FILE,
    Adaptive,
    Policy,
    Setting,
    paper_default,
)
from resprune.validation import StrictModel, explain, shown
from resprune.version import __version__

CONFIG_FILE = "pruning_config.json"
SCHEMA_VERSION = 2
_MAX_BYTES = 2**21  # every wrong key or policy becomes an error object, a hundred times as large
_MAX_POLICIES = 1000
_NOT_OURS = (CONFIG_FILE, "config.json")
_M = TypeVar("_M", bound=StrictModel)


class BackboneRef(StrictModel):
    """The model that a config was made for.

    Attributes:
        family: Backbone family, for example ``llava``; another family is an error.
        id: Model id or folder name; a different one only warns.
        revision: Hub revision, or None.
        width: Width d of the LLM's input embeddings; another width is an error.
        visual_tokens: Visual tokens T of an image where the family fixes it, else None.
        text_model: CLIP checkpoint that ``attach`` loads for ``cdpruner``, or None.
    """

    family: str
    id: str | None = None
    revision: str | None = None
    width: int | None = Field(default=None, ge=1)
    visual_tokens: int | None = Field(default=None, ge=1)
    text_model: str | None = None


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
    stop_nouns: Annotated[tuple[str, ...], FailFast()] = Field(default=(), strict=False)


class PruningConfig(StrictModel):
    """A pruning config (DESIGN.md, "The exported config").

    Attributes:
        schema_version: Version of this layout; a newer one is refused.
        library_version: Version that wrote the file.
        backbone: What it was made for, or None for a hand-written config.
        nouns: How nouns are taken from the question.
        untested: True for defaults that neither the paper nor a study has tested.
        default: Budget of the policy used when the caller names none.
        table: One policy a budget; they may differ in everything.
        certificate: What a study certified of them, or None.
    """

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1)
    library_version: str = __version__
    backbone: BackboneRef | None = None
    nouns: NounOptions = NounOptions()
    untested: bool = False
    default: Budget
    table: Annotated[tuple[Policy, ...], FailFast()] = Field(strict=False, max_length=_MAX_POLICIES)
    certificate: Certificate | None = None

    _predictor: AlphaPredictor | None = None

    @model_validator(mode="after")
    def _table_holds_together(self) -> Self:
        if not self.table:
            raise ValueError("table is empty; give at least 1 policy")
        seen = [policy.budget for policy in self.table]
        if len(set(seen)) != len(seen):
            raise ValueError(
                f"table lists a budget twice ({self._listed()}); keep one policy a budget"
            )
        if self.default not in seen:
            raise ValueError(
                f"default {self.default} is not in the table; it lists {self._listed()}"
            )
        total = self.backbone.visual_tokens if self.backbone else None
        over = [b.count for b in seen if total and isinstance(b, Count) and b.count > total]
        if over:
            raise ValueError(
                f"budget {over[0]} is over the {total} visual tokens that the backbone gives an "
                f"image; write 1 to {total}, or a ratio"
            )
        names = {policy.predictor for policy in self.table if isinstance(policy, Adaptive)}
        if len(names) > 1:
            raise ValueError(
                f"table names several predictors ({', '.join(sorted(names))}); a config has one"
            )
        if names & set(_NOT_OURS):
            raise ValueError(f"predictor {min(names)!r} is another file; name it {PREDICTOR_FILE}")
        return self

    def _listed(self) -> str:
        return ", ".join(str(policy.budget) for policy in self.table)

    # -- making one ---------------------------------------------------------------------

    @classmethod
    def single(
        cls,
        budget: BudgetLike,
        *,
        method: str = "resprune",
        positions: Positions = "keep",
        backbone: BackboneRef | dict[str, Any] | None = None,
        nouns: NounOptions | dict[str, Any] | None = None,
        untested: bool = False,
        **options: Any,
    ) -> PruningConfig:
        """Make a config with one budget.

        Args:
            budget: Count (int) or ratio (float) of visual tokens to keep per image, or a budget.
            method: Name of the method.
            positions: Position policy.
            backbone: What it is made for.
            nouns: How nouns are taken from the question.
            untested: Whether neither the paper nor a study has tested it.
            **options: The method's options, as ``Setting.of`` takes them.

        Returns:
            The config.

        Raises:
            ConfigError: A value is out of range; the message says what is allowed.
        """
        setting = Setting.of(method, budget, positions=positions, **options)
        data = {
            "backbone": backbone,
            "nouns": nouns or {},
            "untested": untested,
            "default": setting.budget,
            "table": [setting],
        }
        return cls.from_dict(data)

    @classmethod
    def paper_default(cls, family: str, budget: BudgetLike, **options: Any) -> PruningConfig:
        """Make the paper's setting for a family (ResPrune, arXiv 2603.21105), as far as known.

        Args:
            family: Backbone family. One that the paper did not test gets ``l2_norm`` and
                alpha 0.5 and is marked ``untested``.
            budget: Count or ratio of visual tokens to keep per image.
            **options: Any other argument of ``single``.

        Returns:
            The config.
        """
        paper = paper_default(family, budget)
        named = {name: value_of(paper.options, name) for name in ("alpha", "seed_strategy")}
        return cls.single(budget, **{**named, "untested": family not in PAPER_DEFAULTS, **options})

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
            data: The JSON object, of this schema version or an older one.
            predictor: The predictor of its adaptive policies.
            where: Name of the source, for messages.

        Returns:
            The config.

        Raises:
            ConfigError: Newer schema, unknown key or method, value out of range, or an adaptive
                policy without a predictor for its budget.
        """
        return cls._read(data, lambda _: predictor, where)

    @classmethod
    def _read(
        cls, data: Any, predictor_at: Callable[[str], AlphaPredictor | None], where: str
    ) -> PruningConfig:
        if not isinstance(data, dict):
            raise ConfigError(f"{where}: expected a JSON object, found {type(data).__name__}")
        version = data.get("schema_version", SCHEMA_VERSION)
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise ConfigError(
                f"{where}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest "
                f"this resprune {__version__} reads; upgrade resprune-tune"
            )
        if version == 1:
            old = _validated(Schema1, data, where)
            data = old.upgraded(_required(predictor_at, PREDICTOR_FILE, old.adaptive, where))
        config = _validated(cls, data, where)
        adaptive = [policy for policy in config.table if isinstance(policy, Adaptive)]
        name = adaptive[0].predictor if adaptive else PREDICTOR_FILE
        budgets = [policy.budget for policy in adaptive]
        config._predictor = _required(predictor_at, name, budgets, where)
        for policy in adaptive:
            _check_arms(policy, config._predictor, where)
        _check_certificate(config, where)
        return config

    # -- using it -----------------------------------------------------------------------

    @property
    def predictor(self) -> AlphaPredictor | None:
        """The predictor of the adaptive policies, or None."""
        return self._predictor

    def policy(self, budget: BudgetLike | None = None) -> Setting | Adaptive:
        """Look a budget up in the table.

        Args:
            budget: A budget of the table (a count, a ratio or a budget), or None for the default.

        Returns:
            Its policy.

        Raises:
            ConfigError: The budget is not in the table.
        """
        try:
            wanted = self.default if budget is None else read_budget(budget)
        except ResPruneError:
            wanted = None
        for policy in self.table:
            if policy.budget == wanted:
                return policy
        raise ConfigError(
            f"budget {shown(budget)} is not in the pruning config; it lists {self._listed()}"
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
            The config, with its predictor when it has one.

        Raises:
            ConfigError: Missing, unreadable, or wrong; the message names file and fix.
        """
        folder = hub.folder_of(source, revision, CONFIG_FILE)
        path = folder / CONFIG_FILE
        if not path.is_file():
            raise ConfigError(
                f"{folder}: no {CONFIG_FILE} here; `resprune-tune export` writes one "
                "(config.json is the model's own and is not read)"
            )

        @functools.cache
        def predictor_at(name: str) -> AlphaPredictor | None:
            file = hub.folder_of(source, folder.name, name) / name  # of the same commit
            if not file.is_file():
                return None
            return AlphaPredictor.from_dict(read_json(file), where=str(file))

        data = read_json(path, max_bytes=_MAX_BYTES)
        return cls._read(data, predictor_at, str(path))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``pruning_config.json`` (and the predictor's file) into a folder.

        Files are written beside and renamed, so an interrupted write leaves the old ones.

        Args:
            folder: Created when missing.

        Raises:
            ConfigError: The folder cannot be written.
        """
        target = Path(folder)
        files: dict[Path, Any] = {}
        for policy in self.table:
            if isinstance(policy, Adaptive) and self._predictor is not None:
                files[target / policy.predictor] = self._predictor.to_dict()
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
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return hub.upload(Path(folder), repo_id, private)


def _validated(cls: type[_M], data: dict[str, Any], where: str) -> _M:
    """Validate, leaving out with a warning the keys that only a newer library knows."""
    known = without_newer_keys(data, cls, where)
    try:
        return cls.model_validate(known)
    except ValidationError as error:
        writer = data.get("library_version")
        newer = f" (written by resprune {writer}, newer than {__version__})"
        hint = newer if is_newer(writer) else ""
        raise ConfigError(f"{where}: {explain(error, cls)}{hint}") from None


def _required(
    predictor_at: Callable[[str], AlphaPredictor | None],
    name: str,
    budgets: Sequence[Count | Ratio | Energy],
    where: str,
) -> AlphaPredictor | None:
    """Return the predictor of adaptive policies, fitted for their budgets; None without any."""
    if not budgets:
        return None
    predictor = predictor_at(name)
    if predictor is None:
        raise ConfigError(
            f"{where}: the policy at budget {', '.join(map(str, budgets))} is adaptive and there "
            f"is no predictor; put {name} beside the config, or write one of its arms as the policy"
        )
    for budget in budgets:
        predictor.require_budget(budget, where)
    return predictor


def _check_certificate(config: PruningConfig, where: str) -> None:
    """Check that what was certified is what the table holds."""
    policies = {policy.budget: policy for policy in config.table}
    for tested in config.certificate.order if config.certificate is not None else ():
        policy = policies.get(tested.budget)
        if policy is not None and policy_digest(policy, config.predictor) != tested.policy:
            raise ConfigError(
                f"{where}: certificate: the policy at budget {tested.budget} is not the one that "
                "was certified; restore it, export the config again, or remove the certificate"
            )


def _check_arms(policy: Adaptive, predictor: AlphaPredictor | None, where: str) -> None:
    """Check that a predictor's indices mean the policy's arms."""
    assert predictor is not None
    meant = [dict(arm) for arm in predictor.arms]
    found = [{name: arm.option(name) for name in meant[0]} for arm in policy.arms]
    if found != meant:
        raise ConfigError(
            f"{where}: the arms at budget {policy.budget} are not those of {policy.predictor} "
            f"({len(found)} and {len(meant)}, or other values); export the config again"
        )
