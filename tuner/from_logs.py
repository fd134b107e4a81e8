"""``resprune-tune run MODEL --images FOLDER --questions FILE``: a study without a study file.

Prompts and images from production, without labels: the score is how often the pruned model
answers as the unpruned one does (``fidelity``), the images are divided by seed into tune, certify
and report splits, and the fewest tokens whose loss is certified are looked for. With too few images
for that claim nothing is certified, and the study says what they could prove.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from resprune.certificate import Claim
from resprune.errors import StudyError
from resprune.files import write_text
from resprune.validation import explain
from tuner import certificate, tasks
from tuner.scoring.model import load_backbone
from tuner.study import BackboneSection, StudyConfig, dump_study, study_from_dict
from tuner.tasks.divide import SHARES, divided

SHARES_KEPT = (0.75, 0.5, 0.33, 0.22, 0.11)
_TRIALS = 40
_MOST = {"tune": 300, "certify": 1000, "report": 500}  # questions, what a study of a day bears
_UNCERTIFIED = {"tune": 0.5, "report": 0.5}
_LEAST_IMAGES = 2


@dataclass(frozen=True)
class Logs:
    """What to make a study of.

    Attributes:
        model: Embedded model, folder or hub id.
        images: Folder of the images; None where they lie in ``questions``.
        questions: ``.jsonl``, ``.csv`` or ``.parquet`` with ``image`` and ``question``, or ``.txt``
            with one question a line, each asked of every image.
        claim: What is to be certified.
        seed: Of everything random.
        name: Of the study; made from the model and the questions where None.
        answer_format: Appended to every question.
        max_new_tokens: How much of an answer is compared.
    """

    model: str
    images: Path | None
    questions: Path
    claim: Claim
    seed: int = 0
    name: str | None = None
    answer_format: str = ""
    max_new_tokens: int = 16


def claim_of(loss: float, confidence: float) -> Claim:
    """Return an absolute claim; a ``StudyError`` names what is out of range."""
    try:
        return Claim(loss=loss, confidence=confidence)
    except ValidationError as error:
        raise StudyError(f"--{explain(error, Claim)}") from None


def study_from_logs(logs: Logs, overrides: Mapping[str, Mapping[str, Any]]) -> StudyConfig:
    """Make a study with defaults of a model, images and questions.

    Args:
        logs: What to make it of.
        overrides: Keys by section that take the place of the defaults.

    Returns:
        The study. Its note says what so many images can prove.

    Raises:
        ResPruneError: The model cannot be loaded, or rows or images are wrong: all are named.
    """
    section = BackboneSection(model=_local(logs.model))
    backbone = load_backbone(section, weights=False)
    different = _images(logs)
    images = _by_part(different, SHARES, logs.seed)
    needed = certificate.images_to_prove(logs.claim, "exact", improves=False)
    certified = images["certify"] >= needed
    shares = SHARES if certified else _UNCERTIFIED
    counts = _by_part(different, shares, logs.seed)
    objective: dict[str, Any] = {"kind": "pareto", "tolerance": logs.claim.loss}
    if certified:
        objective = {"kind": "certified", "test": "auto", **logs.claim.model_dump()}
    attention = [signal for signal in backbone.seed_signals if signal.endswith("_attention")][:1]
    data = {
        "study": {
            "name": logs.name or _name(logs),
            "seed": logs.seed,
            "trials": _TRIALS,
            "objective": objective,
            "note": _note(logs.claim, images, needed),
        },
        "backbone": {"model": section.model, "family": backbone.family},
        "task": {
            **_task(logs),
            "divide": {"shares": dict(shares), "seed": logs.seed},
            **{
                part: {
                    "split": part,
                    "samples": min(_MOST[part], counts[part]),
                    "questions_per_image": 1,
                }
                for part in shares
            },
        },
        "search": {
            "method": ("resprune", "l2_norm"),
            "seed_strategy": (*attention, "l2_norm", "relevance"),
            "budget": tuple(_budget(share, backbone.visual_tokens) for share in SHARES_KEPT),
        },
    }
    return study_from_dict(data, where="the study of --images and --questions", overrides=overrides)


def keep(study: StudyConfig, folder: Path) -> Path:
    """Write a study beside its run folder.

    Returns:
        Its path.

    Raises:
        StudyError: Another study lies there, or it cannot be written.
    """
    path, text = folder / f"{study.study.name}.toml", dump_study(study)
    try:
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise StudyError(
                f"{path}: holds another study than these images, questions and options make; run "
                f"that one by `resprune-tune run {path}`, or give this one a --name"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be written ({error})") from error
    return path


def _budget(share: float, total: int | None) -> float | int:
    """Keep a share of each image; where all have the same T, the count that it is."""
    return share if total is None else max(1, round(share * total))


def _task(logs: Logs) -> dict[str, Any]:
    return {
        "name": "table",
        "data": str(logs.questions.resolve()),
        "images": None if logs.images is None else str(logs.images.resolve()),
        "metric": "fidelity",
        "answer_format": logs.answer_format,
        "max_new_tokens": logs.max_new_tokens,
    }


def _images(logs: Logs) -> list[str]:
    """Return the images that differ; reading them says what is wrong with any."""
    options = {key: value for key, value in _task(logs).items() if value is not None}
    del options["name"]
    task = tasks.get("table", **options, divide={"shares": {"whole": 1.0}, "seed": logs.seed})
    found = sorted({sample.image_id for sample in task.samples("whole", None)})
    if len(found) < _LEAST_IMAGES:
        raise StudyError(
            f"{logs.questions}: {len(found)} images that differ; a study needs "
            f"{_LEAST_IMAGES} at the least, one to tune on and one to report on"
        )
    return found


def _by_part(images: Sequence[str], shares: Mapping[str, float], seed: int) -> Counter[str]:
    """Count the images that the task will give each part."""
    return Counter(divided(images, shares, seed))


def _note(claim: Claim, images: Mapping[str, int], needed: int) -> str:
    total, kept = sum(images.values()), images["certify"]
    least = certificate.smallest_loss(kept, claim.confidence, "exact", improves=False)
    could = (
        "could prove no loss at all"
        if least is None
        else f"could at best prove that less than {100 * least:.1f} points are lost"
    )
    promise = f"a loss below {100 * claim.loss:g} points at {100 * claim.confidence:g} % confidence"
    if kept >= needed:
        return (
            f"Of {total:,} images that differ, {kept:,} are kept apart for the certificate; they "
            f"{could}, where no answer changes. The claim is {promise}."
        )
    return (
        f"There are too few images to certify {promise}: of {total:,} that differ, {kept:,} would "
        f"be kept apart for it, which {could}; {needed:,} are needed, so about "
        f"{round(needed / SHARES['certify']):,} in all. Nothing is certified, and the config is "
        "exported without a certificate."
    )


def _name(logs: Logs) -> str:
    model = Path(logs.model.rstrip("/")).name
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{model}-{logs.questions.stem}")
    return text.strip("-.")[:100] or "study"


def _local(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).is_dir() else model
