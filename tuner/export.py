"""Export a finished study as a config directory that `resprune` reads.

`resprune-tune export RUN_DIR [--out DIR]` writes `pruning_config.json`, `alpha_predictor.json`
when an alpha is adaptive, and `README.md`, a card made from the data.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from pathlib import Path

from resprune.alpha import PREDICTOR_FILE, AlphaPredictor
from resprune.config import CONFIG_FILE, PruningConfig
from resprune.errors import StudyError
from resprune.files import read_json
from tuner.card import render_card
from tuner.results import ChosenConfig, Results

CARD_FILE = "README.md"
CONFIG_FOLDER = "config"
_OURS = frozenset({CONFIG_FILE, PREDICTOR_FILE, CARD_FILE})


def export_run(run_dir: Path, out: Path | None = None) -> Path:
    """Write the config directory of a finished study.

    Everything is written into a folder beside the target, which then takes its place; a
    failure leaves the target as it was.

    Args:
        run_dir: Run folder with `results.json` and, where alpha is adaptive,
            `alpha_predictor.json`.
        out: Where to write; `config` in the run folder by default. A folder there that holds
            anything but an earlier export is not replaced.

    Returns:
        The config directory.

    Raises:
        StudyError: No finished study in the run folder, or the target cannot be written.
        ResPruneError: `results.json` or the alpha predictor is damaged.
    """
    run_dir = Path(run_dir)
    target = Path(out) if out is not None else run_dir / CONFIG_FOLDER
    results = Results.load(run_dir)
    config = build_config(results, _load_predictor(results, run_dir), str(run_dir))
    card = render_card(results, config)
    _check_target(target)
    staging = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        staging.chmod(0o777 & ~_umask())
        config.save_pretrained(staging)
        (staging / CARD_FILE).write_text(card, encoding="utf-8")
        _swap(staging, target)
    except OSError as error:
        raise StudyError(f"{target}: cannot be written ({error.strerror})") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return target


def build_config(results: Results, predictor: AlphaPredictor | None, where: str) -> PruningConfig:
    """Make the pruning config that a study's results stand for.

    The relevance options and positions hold for the whole table: they are those of the
    recommended config, and a budget whose chosen config differs in them is left out, with a
    warning.

    Args:
        results: What the study found.
        predictor: The alpha predictor of its adaptive configs.
        where: The run folder, for messages.

    Returns:
        The config.

    Raises:
        StudyError: The study chose no config at its recommended budget.
        ConfigError: A chosen value is out of range, or the predictor is missing.
    """
    lead = next((c for c in results.chosen if c.budget == results.recommended_budget), None)
    if lead is None:
        listed = ", ".join(str(c.budget) for c in results.chosen) or "none"
        raise StudyError(
            f"{where}: the recommended budget {results.recommended_budget} is not among the "
            f"chosen configs ({listed}); run the study again"
        )
    table = [c for c in results.chosen if _options(c) == _options(lead)]
    left_out = [c.budget for c in results.chosen if c not in table]
    if left_out:
        warnings.warn(
            f"{where}: budgets {left_out} were tuned with other relevance options or positions "
            f"than the recommended {lead.budget} and are left out of the export",
            stacklevel=2,
        )
    model, nouns = results.model, results.noun_pipeline
    data = {
        "backbone": {
            "family": model.family,
            "id": model.id,
            "revision": model.revision,
            "width": model.width,
            "visual_tokens": model.visual_tokens,
        },
        "budgets": [
            {"budget": c.deployed_budget, "alpha": c.alpha, "seed_strategy": c.seed_strategy}
            for c in sorted(table, key=lambda c: -c.budget)
        ],
        "default_budget": lead.deployed_budget,
        "nouns": {"pipeline": nouns.name, "version": nouns.version},
        **_options(lead),
    }
    adaptive = any(c.alpha == "adaptive" for c in table)
    return PruningConfig.from_dict(data, predictor=predictor if adaptive else None, where=where)


def _options(chosen: ChosenConfig) -> dict[str, str]:
    return {
        "pooling": chosen.pooling,
        "normalization": chosen.normalization,
        "positions": chosen.positions,
    }


def _load_predictor(results: Results, run_dir: Path) -> AlphaPredictor | None:
    if all(c.alpha != "adaptive" for c in results.chosen):
        return None
    path = run_dir / PREDICTOR_FILE
    if not path.is_file():
        raise StudyError(
            f"{path}: not found, though the study chose adaptive alpha; run the study again"
        )
    return AlphaPredictor.from_dict(read_json(path), where=str(path))


def _check_target(target: Path) -> None:
    """Refuse to replace anything but an earlier export."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise StudyError(f"{target}: not a folder; give another place to export to")
    if target.is_dir():
        strangers = sorted(p.name for p in target.iterdir() if p.name not in _OURS)
        if strangers:
            raise StudyError(
                f"{target}: holds {strangers[0]!r}, which no export wrote; export to a folder "
                "that is empty or new"
            )


def _swap(staging: Path, target: Path) -> None:
    """Put the new folder in the place of the old one."""
    if not target.exists():
        staging.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    try:
        target.rename(old / "was")
        try:
            staging.rename(target)
        except OSError:
            (old / "was").rename(target)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
