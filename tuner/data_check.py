"""``resprune-tune data check``: what is in a table, what is wrong with it, what it can prove.

Everything that is wrong is named at once. A study file says which model and splits are meant; of a
data file alone they are those of ``resprune-tune run MODEL --questions FILE``.
"""

from __future__ import annotations

import statistics
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import Field

from resprune import NounExtractor
from resprune.certificate import TestName
from resprune.errors import ResPruneError, StudyError
from resprune.validation import StrictModel
from tuner import certificate, tasks
from tuner.imagefile import image_facts, open_image
from tuner.pictures import picture_hash
from tuner.planning import passes_a_second, settings_scored
from tuner.scoring import metrics
from tuner.scoring.bench import Bench
from tuner.scoring.model import is_local, load_backbone
from tuner.scoring.overlap import PictureHashes, check_names, check_pictures
from tuner.scoring.prompts import Prompts
from tuner.stages.claim import split_info
from tuner.stages.opened import load_samples
from tuner.study import StudyConfig
from tuner.tasks import Sample
from tuner.tasks.own import Own
from tuner.tasks.rows import Encoded
from tuner.tasks.table import Table

CONFIDENCE = 0.95
_SHOWN = 3
_TIMED = 16
Told = Callable[[int, int], None]


class Spread(StrictModel):
    """The least, the middle and the greatest of some numbers."""

    least: int
    median: float
    greatest: int

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Spread:
        """Return the spread of one number or more."""
        middle = float(statistics.median(numbers))
        return cls(least=min(numbers), median=middle, greatest=max(numbers))


class ShownSample(StrictModel):
    """A sample as the model gets it."""

    id: str
    images: tuple[str, ...]
    prompt: str
    answers: tuple[str, ...]
    group: str


class ImageCounts(StrictModel):
    """The images of a table.

    Attributes:
        count: Files that can be read, told apart by their bytes.
        width: Pixels, upright.
        height: Pixels, upright.
        modes: How many of each mode; all are converted to RGB.
        formats: How many of each format.
        animated: Of which the first frame is taken.
        turned: Which are turned upright as their EXIF data says.
        tokens: Visual tokens that the model makes of one; None without a model.
    """

    count: int
    width: Spread
    height: Spread
    modes: dict[str, int]
    formats: dict[str, int]
    animated: int
    turned: int
    tokens: Spread | None = None


class PartCounts(StrictModel):
    """One split of the study.

    Attributes:
        name: The part it plays, or its name.
        questions: Questions asked of it.
        images: Images that differ, those that look alike counted once.
        questions_per_image: The most.
        smallest_loss: What it could prove at 95 % confidence where no answer changes for the worse,
            absolute; None where nothing, or where the metric has no least value.
        passes: Forward passes of the language model at most; None without a study or a model.
        seconds: What they take here; None where the model is not at hand.
    """

    name: str
    questions: int
    images: int
    questions_per_image: int
    smallest_loss: float | None
    passes: int | None = None
    seconds: float | None = None


class DataCheck(StrictModel):
    """What a check found.

    Attributes:
        source: The data.
        rows: Rows by split, wrong ones included.
        groups: Rows by group.
        answers: Rows that have a gold answer.
        samples: The first few.
        images: Its images; None where none can be read.
        problems: Everything that is wrong, each with its place.
        duplicates: Names of images that are the same picture, pixel by pixel.
        warnings: What to look at.
        parts: The splits; empty while something is wrong.
        notes: How a split was divided.
    """

    source: str
    rows: dict[str, int]
    groups: dict[str, int]
    answers: int
    samples: tuple[ShownSample, ...]
    images: ImageCounts | None
    problems: tuple[str, ...]
    duplicates: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...] = ()
    parts: tuple[PartCounts, ...] = Field(default=())
    notes: tuple[str, ...] = ()


def check_data(
    task: Table,
    splits: Sequence[str],
    parts: Callable[[], Mapping[str, Sequence[Sample]]],
    study: StudyConfig | None,
    told: Told | None = None,
) -> DataCheck:
    """Check the data of a task.

    Args:
        task: The task.
        splits: Its splits that are there.
        parts: Draws the samples by the part they play.
        study: Names the model and what is searched; None for the data alone.
        told: Called with the images done and in all.

    Returns:
        What was found.

    Raises:
        ResPruneError: The data cannot be read at all, or the model cannot be loaded.
    """
    read = {split: task.sound(split) for split in splits}
    rows = [row for found, _ in read.values() for row in found]
    problems = [problem for _, wrong in read.values() for problem in wrong]
    samples = [sample for sample, _ in rows]
    encoded = {p.version: e for s, own in rows for p, e in zip(s.pictures, own, strict=True)}
    names = {p.version: p.id for sample in samples for p in sample.pictures}
    images, broken, duplicates = _images(encoded, names, told)
    found = DataCheck(
        source=task.source,
        rows={split: len(good) + len(wrong) for split, (good, wrong) in read.items()},
        groups=dict(Counter(sample.group for sample in samples)),
        answers=sum(bool(sample.answers) for sample in samples),
        samples=tuple(map(_shown, samples[:_SHOWN])),
        images=images,
        problems=(*problems, *broken),
        duplicates=duplicates,
    )
    if found.problems or images is None:
        return found
    try:
        drawn = parts()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check_names(drawn)
            check_pictures(drawn, PictureHashes())
        more = [str(warning.message) for warning in caught]
    except StudyError as error:
        return found.model_copy(update={"problems": (str(error),)})
    counted = [_part(name, each, task) for name, each in drawn.items()]
    if study is not None:
        images, counted = _under(study, task, drawn, images, counted)
    return found.model_copy(
        update={
            "images": images,
            "warnings": tuple(more),
            "parts": tuple(counted),
            "notes": task.notes,
        }
    )


def _images(
    encoded: Mapping[str, Encoded], names: Mapping[str, str], told: Told | None
) -> tuple[ImageCounts | None, list[str], tuple[tuple[str, ...], ...]]:
    """Decode each image once; return what they are, which are broken, and which are the same."""
    facts, sizes, broken = [], [], []
    same: dict[str, list[str]] = defaultdict(list)
    for done, (version, each) in enumerate(encoded.items(), 1):
        try:
            data, where = each.read()
            image = open_image(data, where)
            facts.append(image_facts(data))
        except ResPruneError as error:
            broken.append(str(error))
            continue
        sizes.append(image.size)
        same[picture_hash(image).pixels].append(names[version])
        if told is not None:
            told(done, len(encoded))
    if not facts:
        return None, broken, ()
    counts = ImageCounts(
        count=len(facts),
        width=Spread.of([width for width, _ in sizes]),
        height=Spread.of([height for _, height in sizes]),
        modes=dict(Counter(each.mode for each in facts)),
        formats=dict(Counter(each.format for each in facts)),
        animated=sum(each.frames > 1 for each in facts),
        turned=sum(each.turned for each in facts),
    )
    return counts, broken, tuple(tuple(group) for group in same.values() if len(group) > 1)


def _shown(sample: Sample) -> ShownSample:
    return ShownSample(
        id=sample.id,
        images=tuple(picture.id for picture in sample.pictures),
        prompt=sample.prompt,
        answers=sample.answers,
        group=sample.group,
    )


def _part(name: str, samples: Sequence[Sample], task: Table) -> PartCounts:
    info = split_info(name, 0, samples)
    metric = metrics.get(task.metric)
    least = None
    if metric.bounded:
        exact = (metric.compares or task.binary) and info.questions_per_image == 1
        test: TestName = "exact" if exact else "betting"
        least = certificate.smallest_loss(
            info.images, CONFIDENCE, test, not metric.compares, info.questions_per_image
        )
    return PartCounts(
        name=name,
        questions=info.samples,
        images=info.images,
        questions_per_image=info.questions_per_image,
        smallest_loss=least,
    )


def _under(
    study: StudyConfig,
    task: Table,
    parts: Mapping[str, Sequence[Sample]],
    images: ImageCounts,
    counted: Sequence[PartCounts],
) -> tuple[ImageCounts, list[PartCounts]]:
    """Add what is known under the study's model: tokens of an image, and what the study costs."""
    local = is_local(study.backbone)
    backbone = load_backbone(study.backbone, weights=local)
    if backbone.visual_tokens is not None:
        tokens = [backbone.visual_tokens]
    else:
        every = [sample for samples in parts.values() for sample in samples]
        alone = list({sample.image_key: sample for sample in every}.values())
        tokens = [
            int((ids == backbone.image_token_id).sum()) // len(sample.pictures)
            for ids, sample in zip(Prompts(backbone, alone).ids, alone, strict=True)
        ]
    speed = None
    timed = next(iter(parts.values()))[:_TIMED]
    if local:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench.open(backbone, task, task.metric, Path(folder), NounExtractor())
            speed = passes_a_second(timed, bench)
            bench.outcomes.close()
    settings = settings_scored(study, len(study.budgets()))
    found = []
    for part in counted:
        passes = part.questions * settings.get(part.name, 0)
        seconds = None if speed is None else round(passes / speed, 1)
        found.append(part.model_copy(update={"passes": passes, "seconds": seconds}))
    return images.model_copy(update={"tokens": Spread.of(tokens)}), found


def check_study_data(study: StudyConfig, told: Told | None = None) -> DataCheck:
    """Check the data of a study.

    Raises:
        ResPruneError: As ``check_data``; or the study's task is no table.
    """
    task = tasks.make(study.task)
    if not isinstance(task, Table):
        raise StudyError(
            f"task.name: {study.task.name!r} reads no table; there is nothing to check"
        )
    real = dict.fromkeys(task.home_of(spec.split) for spec in study.task.splits().values())

    def parts() -> Mapping[str, Sequence[Sample]]:
        return load_samples(study, task)

    return check_data(task, list(real), parts, study, told)


def check_file(
    path: Path, images: Path | None, scorer: str | None, told: Told | None = None
) -> DataCheck:
    """Check a data file, or a folder of one a split, without a model.

    Args:
        path: The file or folder.
        images: Folder of its images; its own where None.
        scorer: Scorer that its answers are meant for; None needs no answers.
        told: Called with the images done and in all.

    Raises:
        ResPruneError: As ``check_data``.
    """
    options = {} if scorer is None else {"scorer": scorer}
    if images is not None:
        options["images"] = str(images)
    metric = "fidelity" if scorer is None else "score"
    task = tasks.get("table", data=str(path), metric=metric, **options)
    assert isinstance(task, Own)

    def parts() -> Mapping[str, Sequence[Sample]]:
        names = task.splits if task.division is None else list(task.division.shares)
        return {name: task.samples(name, None) for name in names}

    return check_data(task, task.real_splits, parts, None, told)
