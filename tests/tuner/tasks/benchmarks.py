"""The small data sets of the nine benchmarks, written as people have them on a disk."""

import json
import shutil
from pathlib import Path

FIXTURES = Path(__file__).parents[2] / "fixtures" / "benchmarks"
SPLITS = {
    "gqa": "testdev", "mmbench": "dev", "mmbench-cn": "dev", "mme": "test", "pope": "test",
    "scienceqa-img": "test", "textvqa": "validation", "vizwiz": "val", "vqav2": "validation",
}  # fmt: skip
KINDS = ("parquet", "jsonl", "imagefolder", "save_to_disk")


def rows(task):
    """The rows of a benchmark; ``image`` names a photograph."""
    lines = (FIXTURES / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def photograph(name):
    return FIXTURES / "images" / f"{name}.jpg"


def write(task, folder, kind="parquet", split=None, rows_=None):
    """Write a benchmark's data set; GQA's two configurations are folders of it."""
    split = split or SPLITS[task]
    data = rows(task) if rows_ is None else rows_
    if task != "gqa":
        return _write(folder, data, kind, split)
    _write(folder / f"{split}_balanced_instructions", data, kind, split, image=None)
    images = [{"id": row["imageId"], "image": row["imageId"]} for row in data]
    unique = list({row["id"]: row for row in images}.values())
    _write(folder / f"{split}_balanced_images", unique, kind, split)
    return folder


def _write(folder, data, kind, split, image="image"):
    import datasets

    folder.mkdir(parents=True, exist_ok=True)
    if kind in ("parquet", "save_to_disk") or (kind == "imagefolder" and image is None):
        full = [
            {**row, image: {"bytes": photograph(row[image]).read_bytes(), "path": None}}
            if image
            else row
            for row in data
        ]
        table = datasets.Dataset.from_list(full)
        if image:
            table = table.cast_column(image, datasets.Image(decode=False))
        if kind == "save_to_disk":
            datasets.DatasetDict({split: table}).save_to_disk(folder)
        else:
            (folder / "data").mkdir(exist_ok=True)
            table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
        return folder
    at = folder if kind == "jsonl" else folder / split
    at.mkdir(exist_ok=True)
    key = "image" if kind == "jsonl" else "file_name"
    lines = []
    for row in data:
        if image is None:
            lines.append(row)
            continue
        name = f"{row[image]}.jpg"
        shutil.copy(photograph(row[image]), at / name)
        rest = {name: cell for name, cell in row.items() if name != image}
        lines.append({**rest, key: name})
    path = folder / f"{split}.jsonl" if kind == "jsonl" else at / "metadata.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return folder
