"""Export a finished study as a config directory that `resprune` reads.

`resprune-tune export RUN_DIR [--out DIR]` writes `pruning_config.json`, `alpha_predictor.json`
where a policy is adaptive, and `README.md`, a card made from the data.
"""

from __future__ import annotations

from pathlib import Path

from resprune.alpha import AlphaPredictor
from resprune.config import CONFIG_FILE, PruningConfig
from resprune.errors import StudyError
from resprune.files import read_json, written_beside
from resprune.setting import PREDICTOR_FILE, Adaptive, unpruned
from tuner.certificate import check
from tuner.output.card import render_card
from tuner.results.schema import Results

CARD_FILE = "README.md"
CONFIG_FOLDER = "config"
_OURS = frozenset({CONFIG_FILE, PREDICTOR_FILE, CARD_FILE})


def export_run(run_dir: Path, out: Path | None = None) -> Path:
    """Write the config directory of a finished study.

    Everything is written into a folder beside the target, which then takes its place; a
    failure leaves the target as it was.

    Args:
        run_dir: Run folder with `results.json` and, where a policy is adaptive,
            `alpha_predictor.json`.
        out: Where to write; `config` in the run folder by default. A folder there that holds
            anything but an earlier export is not replaced.

    Returns:
        The config directory.

    Raises:
        StudyError: No finished study in the run folder, or the target cannot be written.
        ResPruneError: `results.json` or the predictor is damaged.
    """
    target = out if out is not None else run_dir / CONFIG_FOLDER
    results = Results.load(run_dir)
    config = build_config(results, _load_predictor(results, run_dir), str(run_dir))
    card = render_card(results)
    _check_target(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(target.absolute(), swap=True) as folder:
            folder.mkdir()
            config.save_pretrained(folder)
            (folder / CARD_FILE).write_text(card, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"{target}: cannot be written ({error.strerror})") from error
    return target


def build_config(results: Results, predictor: AlphaPredictor | None, where: str) -> PruningConfig:
    """Make the pruning config that a study's results stand for.

    Args:
        results: What the study found.
        predictor: The predictor of its adaptive policies.
        where: The run folder, for messages.

    Returns:
        The config: a table of the chosen policies, the largest budget first. Where the study
        recommends all tokens, the policy that keeps them is in it too, as the default.

    Raises:
        ConfigError: A chosen value is out of range, the predictor is missing, or the study chose
            no policy at its recommended budget.
        StudyError: The certificate's verdicts do not follow from its numbers.
    """
    nouns = results.noun_pipeline
    table = [c.policy for c in sorted(results.chosen, key=lambda c: -c.tokens)]
    if results.recommended == unpruned().budget:  # nothing could be certified
        table.insert(0, unpruned())
    data = {
        "backbone": results.model.model_dump(),
        "nouns": {"pipeline": nouns.name, "version": nouns.version},
        "default": results.recommended.model_dump(),
        "table": [policy.model_dump(mode="json") for policy in table],
    }
    if results.certificate is not None:
        check(results.certificate)
        data["certificate"] = results.certificate.model_dump(mode="json")
    return PruningConfig.from_dict(data, predictor=predictor, where=where)


def _load_predictor(results: Results, run_dir: Path) -> AlphaPredictor | None:
    if not any(isinstance(c.policy, Adaptive) for c in results.chosen):
        return None
    path = run_dir / PREDICTOR_FILE
    if not path.is_file():
        raise StudyError(
            f"{path}: not found, though the study chose by prompt; run the study again"
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
