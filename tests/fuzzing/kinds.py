"""What is fed with bad input: each kind writes a case into a folder and returns what reads it."""

from __future__ import annotations

import csv
import io
import json
import random
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from resprune import PruningConfig
from resprune.alpha import FEATURE_NAMES
from resprune.config import CONFIG_FILE
from resprune.setting import PREDICTOR_FILE
from tests.fuzzing import mutate, pictures
from tests.tuner.tasks import benchmarks
from tuner import data_check, imagefile, study, tasks
from tuner import pictures as looks
from tuner.study import task_file

ROOT = Path(__file__).parents[2]
Case = Callable[[], None]
STUDIES = ("nano-llava", "nano-llava-methods", "nano-qwen2.5-vl", "llava-1.5-7b")
OWN = {
    "study": {"name": "mine", "objective": {"kind": "certified", "loss": 0.02}, "note": "نص"},
    "backbone": {"model": "nano-llava", "device": "cpu"},
    "task": {
        "name": "table", "data": "q.jsonl", "images": "photos", "scorer": "exact",
        "divide": {"shares": {"tune": 0.25, "certify": 0.5, "report": 0.25}, "seed": 1},
        "tune": {"split": "tune"}, "report": {"split": "report"},
        "certify": {"split": "certify", "samples": 60, "questions_per_image": 1},
    },
    "search": {"method": ["resprune", "l2_norm"], "budget": [22, 0.05, {"energy": 0.1, "most": 30}],
               "later": {"method": "fastv", "budget": 4}, "resprune": {"alpha": [0.0, 0.5]}},
    "storage": {"runs": "runs"},
}  # fmt: skip
HUB = {
    **OWN,
    "task": {"name": "pope", "dataset": "photos", "config": "Full", "revision": "main", "stream": 9,
             "tune": {"split": "tune"}, "report": {"split": "report"}},
}  # fmt: skip
HUB_COLUMNS: dict[str, Any] = {
    "columns": {"answers": "answer", "group": "category"},
    "scorer": "exact",
}
COUNT = 6  # photographs of a case


@cache
def _configs() -> list[tuple[Any, Any]]:
    """Configs, and the predictor beside each: of the newest schema and of the first."""
    old = Path(ROOT / "tests" / "resprune" / "schema1")
    read = PruningConfig.from_pretrained(old)
    assert read.predictor is not None
    first = [json.loads((old / name).read_text()) for name in (CONFIG_FILE, PREDICTOR_FILE)]
    later = PruningConfig.from_dict(
        PruningConfig.single(0.11).to_dict()
        | {"table": [{"method": "resprune", "budget": {"energy": 0.05, "most": 98}, "options": {},
                      "later": {"method": "fastv", "options": {}, "budget": 4}}],
           "default": {"energy": 0.05, "most": 98}}
    )  # fmt: skip
    newest = (read.to_dict(), read.predictor.to_dict())
    return [newest, newest, (first[0], first[1]), (later.to_dict(), None)]


def _read_config(folder: Path) -> None:
    found = PruningConfig.from_pretrained(folder)
    PruningConfig.from_dict(found.to_dict(), predictor=found.predictor)
    if found.predictor is not None:
        rows = np.zeros((2, len(FEATURE_NAMES)))
        for budget in found.predictor.budgets:
            found.predictor.arms_for(rows, ["", "is _"], budget)


def config(rng: random.Random, folder: Path) -> Case:
    """A pruning config with a fault, a good predictor beside it."""
    good, predictor = rng.choice(_configs())
    (folder / CONFIG_FILE).write_bytes(mutate.json_text(rng, mutate.data(rng, good)))
    if predictor is not None:
        (folder / PREDICTOR_FILE).write_text(json.dumps(predictor))
    return lambda: _read_config(folder)


def predictor(rng: random.Random, folder: Path) -> Case:
    """A good pruning config, a predictor with a fault beside it."""
    good, beside = rng.choice([pair for pair in _configs() if pair[1] is not None])
    (folder / CONFIG_FILE).write_text(json.dumps(good))
    (folder / PREDICTOR_FILE).write_bytes(mutate.json_text(rng, mutate.data(rng, beside)))
    return lambda: _read_config(folder)


@cache
def _studies() -> list[dict[str, Any]]:
    shipped = [tomllib.loads(study.find_study(name).read_text("utf-8")) for name in STUDIES]
    return [*shipped, OWN, OWN, OWN, HUB]


def _toml(rng: random.Random, folder: Path) -> Path:
    path = folder / "s.toml"
    (folder / "photos").mkdir()
    (folder / "q.jsonl").write_text("")
    while True:
        try:
            text = tomli_w.dumps(mutate.data(rng, rng.choice(_studies())))
            break
        except (TypeError, ValueError, RecursionError):  # what TOML has no way to write
            continue
    path.write_bytes(mutate.toml_text(rng, text))
    return path


def study_file(rng: random.Random, folder: Path) -> Case:
    """A study with a fault in its values or its text."""
    path = _toml(rng, folder)

    def read() -> None:
        found = study.load_study(path)
        text = study.dump_study(found)
        assert study.study_from_dict(tomllib.loads(text)).study == found.study

    return read


def task_of(rng: random.Random, folder: Path) -> Case:
    """The same, of which the task alone is read."""
    path = _toml(rng, folder)
    return lambda: task_file.load_task(path) and None


# -- data -----------------------------------------------------------------------------------------


def _rows(rng: random.Random, photos: list[str], within: bool) -> list[dict[str, Any]]:
    scorer = rng.choice(("choice", "regex", "text", "text"))
    rows: list[dict[str, Any]] = []
    for i in range(rng.choice((1, 4, 12))):
        name = photos[i % len(photos)]
        row: dict[str, Any] = {"image": name, "question": f"What is {i}? ما هذا؟"}
        if within:
            row["image"] = {"bytes": rng.choice(list(pictures.good().values())), "path": None}
        elif rng.random() < 0.2:
            row["images"] = [row.pop("image"), rng.choice(photos)]
        row |= {"answers": ["a", "b"]} if scorer == "text" else {"answer": "a"}
        if scorer == "choice":
            row |= {"choices": ["a", "b", "قط"]}
        row |= {"id": f"r{i}", "group": f"g{i % 2}", "split": "tune" if i % 2 else "report"}
        for key in ("id", "group", "split"):
            if rng.random() < 0.4:
                row.pop(key)
        rows.append(row)
    return rows


def _parquet(rows: Any) -> bytes:
    file = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pylist(rows), file)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError, IndexError):
        file = io.BytesIO()  # columns of no one type
        pq.write_table(pa.table({"image": [b"x"], "question": [1]}), file)
    return file.getvalue()


def _csv(rows: Any, delimiter: str) -> bytes:
    file = io.StringIO()
    names = list(dict.fromkeys(key for row in rows if isinstance(row, dict) for key in row))
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        cells = [row.get(name, "") if isinstance(row, dict) else str(row)[:99] for name in names]
        writer.writerow([json.dumps(c) if isinstance(c, list) else str(c)[:40_000] for c in cells])
    return file.getvalue().encode("utf-8", "surrogatepass")


def _photos(rng: random.Random, folder: Path) -> list[str]:
    names = [f"{i}.png" for i in range(COUNT)]
    fine = sorted(pictures.good())
    fine.remove("tiff-float")
    broken = rng.randrange(COUNT) if rng.random() < 0.2 else -1
    for i, name in enumerate(names):
        file = pictures.picture(rng) if i == broken else pictures.good()[rng.choice(fine)]
        (folder / name).write_bytes(file)
    return names


def _table(rng: random.Random, folder: Path) -> Path:
    """Write photographs and a file of questions about them."""
    kind = rng.choice(("jsonl", "jsonl", "csv", "tsv", "txt", "parquet"))
    path = folder / f"q.{kind}"
    photos = _photos(rng, folder)
    rows = mutate.data(rng, _rows(rng, photos, kind == "parquet" and rng.random() < 0.5))
    if kind == "txt":
        text = "".join(rng.choice((*mutate.TEXTS, "a\0b", "x" * 30_000, " ")) + "\n" for _ in "123")
        file = text.encode()
    elif kind == "jsonl":
        file = b"\n".join(
            mutate.json_text(rng, row) if rng.random() < 0.05 else json.dumps(row).encode()
            for row in rows
        )
    else:
        file = _parquet(rows) if kind == "parquet" else _csv(rows, "," if kind == "csv" else "\t")
    path.write_bytes(mutate.raw(rng, file) if rng.random() < 0.15 else file)
    return path


def _use(task: tasks.Task, split: str, rng: random.Random) -> None:
    thin = rng.choice((None, None, 1))
    samples = task.draw(split, None, questions_per_image=thin)
    for sample in samples[:4]:
        for picture in sample.pictures:
            assert picture.load().mode == "RGB"
        assert 0 <= task.score(rng.choice(("a", "", "yes", "نعم", "x" * 300)), sample) <= 1
    task.measures(["yes"] * len(samples), samples)


def table(rng: random.Random, folder: Path) -> Case:
    """A file of questions with a fault, as the task reads it."""
    path = _table(rng, folder)
    scorer = rng.choice(("exact", "vqa", "anls", "contains", "regex", "choice", "yes-no"))
    metric = rng.choice(("score", "fidelity"))

    def read() -> None:
        given = {"data": str(path), "scorer": scorer, "metric": metric}
        task = tasks.get("table", **given)
        for split in task.splits[-3:]:  # type: ignore[attr-defined]
            _use(task, split, rng)

    return read


def check(rng: random.Random, folder: Path) -> Case:
    """The same, as ``resprune-tune data check`` reads it; what is wrong is in what it returns."""
    path = _table(rng, folder)
    scorer = rng.choice((None, "exact", "choice"))

    def read() -> None:
        found = data_check.check_file(path, None, scorer)
        named = [str(folder) in problem or "image '" in problem for problem in found.problems]
        assert all(named), found.problems
        found.model_dump_json()

    return read


def benchmark(rng: random.Random, folder: Path) -> Case:
    """A benchmark's folder with a fault in its rows, its images or its file."""
    name = rng.choice([each for each in benchmarks.SPLITS if each != "gqa"])
    split = benchmarks.SPLITS[name]
    rows: Any = benchmarks.rows(name)[: rng.choice((2, 4))]
    parquet = rng.random() < 0.6
    for row in rows:
        file = benchmarks.photograph(row["image"]).read_bytes()
        file = pictures.picture(rng) if rng.random() < 0.2 else file
        if parquet:
            row["image"] = {"bytes": file, "path": None}
        else:
            row["image"] += ".jpg"
            (folder / row["image"]).write_bytes(file)
    column = rng.choice([key for key in rows[0] if key != "image" or rng.random() < 0.2])
    kind = rng.choice(("none", "rows", "column", "column", "drop"))
    if kind == "rows":
        rows = [row for row in mutate.data(rng, rows) if isinstance(row, dict)]
    elif kind != "none":
        value = rng.choice(mutate.WEIRD)
        for row in rows:
            row.pop(column) if kind == "drop" else row.update({column: value})
    file = _parquet(rows) if parquet else b"\n".join(json.dumps(row).encode() for row in rows)
    path = folder / f"{split}.{'parquet' if parquet else 'jsonl'}"
    path.write_bytes(mutate.raw(rng, file) if rng.random() < 0.15 else file)
    task, given = ("hub-vqa", HUB_COLUMNS) if rng.random() < 0.2 else (name, {})
    stream = {"stream": 2} if rng.random() < 0.2 else {}

    def read() -> None:
        _use(tasks.get(task, dataset=str(folder), **given, **stream), split, rng)

    return read


def image(rng: random.Random, folder: Path) -> Case:
    """One image file."""
    path = folder / "x.png"
    path.write_bytes(pictures.picture(rng))
    source = path if rng.random() < 0.5 else path.read_bytes()

    def read() -> None:
        opened = imagefile.open_image(source, str(path))
        assert opened.mode == "RGB"
        assert opened.width * opened.height <= imagefile.MAX_PIXELS
        imagefile.image_facts(path.read_bytes())
        looks.picture_hash(opened)

    return read


KINDS: dict[str, tuple[Callable[[random.Random, Path], Case], int]] = {
    "config": (config, 18), "predictor": (predictor, 14), "study": (study_file, 20),
    "task": (task_of, 6), "table": (table, 14), "check": (check, 4), "benchmark": (benchmark, 6),
    "image": (image, 18),
}  # fmt: skip
"""What writes a case, and how many of 100 are such."""
