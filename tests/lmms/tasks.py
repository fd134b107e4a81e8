"""Local tasks of lmms-eval over generated scenes, and the same questions without lmms-eval."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from studies.nano.scenes import Scene, generate_scene, generate_wide_scene
from studies.nano.splits import iter_questions

NEW_TOKENS = {"nano_one": 4, "nano_wide": 4, "nano_mixed": 3}
_UTILS = """
def doc_to_visual(doc):
    return [image.convert("RGB") for image in doc["images"]]

def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def process_results(doc, results):
    return {"accuracy": float(results[0] == doc["answer"])}
"""
_TASK = """
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: answer
generation_kwargs:
  max_new_tokens: {new_tokens}
  temperature: 0
  do_sample: false
process_results: !function utils.process_results
metric_list:
  - metric: accuracy
    aggregation: mean
    higher_is_better: true
metadata:
  - version: 0.0
"""


@dataclass(frozen=True)
class Row:
    """One document of a task."""

    question: str
    answer: str
    images: tuple[Image.Image, ...]


def rows_of(task: str) -> list[Row]:
    """The documents of a task, in order."""
    if task == "nano_one":
        return _rows(generate_scene, 16)
    if task == "nano_wide":
        return _rows(generate_wide_scene, 6)
    one = _rows(generate_scene, 5)
    first, second, third, *rest = one
    no_image = Row("Is there a star?", "yes", ())
    two = Row(second.question, second.answer, (first.images[0], second.images[0]))
    return [first, no_image, two, third, *rest, no_image]


def _rows(scene: Callable[[int], Scene], images: int) -> list[Row]:
    found = []
    for index in range(images):
        asked = iter_questions("monitor", 1, offset=9 * index, scene=scene)[0]
        found.append(Row(asked.text, asked.answer, (scene(asked.scene_seed).image,)))
    return found


def write_tasks(folder: Path) -> Path:
    """Write every task into a folder, for ``--include_path``."""
    (folder / "utils.py").write_text(_UTILS, encoding="utf-8")
    for name, new_tokens in NEW_TOKENS.items():
        data = folder / f"{name}.parquet"
        _write_parquet(data, rows_of(name))
        text = _TASK.format(name=name, data=data, new_tokens=new_tokens)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def _write_parquet(path: Path, rows: Sequence[Row]) -> None:
    from datasets import Dataset, Features, Image, List, Value

    data: dict[str, list[Any]] = {
        "images": [[{"bytes": _png(image), "path": None} for image in row.images] for row in rows],
        "question": [row.question for row in rows],
        "answer": [row.answer for row in rows],
    }
    features = Features(
        {"images": List(Image()), "question": Value("string"), "answer": Value("string")}
    )
    Dataset.from_dict(data, features=features).to_parquet(str(path))


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
