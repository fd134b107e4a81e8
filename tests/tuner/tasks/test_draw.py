"""A split thinned to a few questions an image, for every task."""

import io
import json
from collections import Counter, defaultdict

import pytest
from PIL import Image
from scipy.stats import chisquare

from resprune.errors import StudyError
from tuner import tasks
from tuner.tasks.base import few_an_image
from tuner.tasks.rows import Encoded

COLORS = ("red", "lime", "blue", "black", "white", "gray", "cyan")
# which image each question is about: scattered, and not as many of each
ASKED = [0, 1, 0, 2, 1, 0, 0, 3, 4, 4, 0, 5, 1, 6, 6, 0, 2, 5, 1, 0]
IMAGES = len(set(ASKED))


class OneMethod(tasks.Task):
    """The simplest task there is."""

    name = "one-method"

    def __init__(self):
        self.source = self.name

    def samples(self, split, count, offset=0):
        found = [
            tasks.Sample(f"{n}", f"{i}", "q?", "q?", ("a",), "", lambda i=i: png(i))
            for n, i in enumerate(ASKED)
        ]
        return found if count is None else found[offset : offset + count]


def png(i):
    return Image.new("RGB", (8, 6), COLORS[i])


TABLES = ["table", "hub-vqa", "hub-vqa without ids"]


@pytest.fixture(params=["one-method", *TABLES, "nano-scenes"])
def task(request, tmp_path, monkeypatch):
    if request.param == "one-method":
        return OneMethod()
    if request.param == "nano-scenes":
        return tasks.get("nano-scenes")
    if request.param == "table":
        rows = [{"image": f"{i}.png", "question": "q?", "answer": "a"} for i in ASKED]
        (tmp_path / "tune.jsonl").write_text("\n".join(map(json.dumps, rows)))
        for i in set(ASKED):
            png(i).save(tmp_path / f"{i}.png")
        return tasks.get("table", data=str(tmp_path))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    files = [io.BytesIO() for _ in ASKED]
    for i, file in zip(ASKED, files, strict=True):
        png(i).save(file, "PNG")
    data = {
        "image": [{"bytes": file.getvalue(), "path": None} for file in files],
        "question": ["q?"] * len(ASKED),
        "answers": ["a"] * len(ASKED),
        "image_id": ASKED,
    }
    (tmp_path / "data").mkdir()
    rows = datasets.Dataset.from_dict(data).cast_column("image", datasets.Image(decode=False))
    rows.to_parquet(tmp_path / "data" / "tune-00000-of-00001.parquet")
    columns = {} if "without" in request.param else {"image_id": "image_id"}
    return tasks.get("hub-vqa", dataset=str(tmp_path), columns=columns)


def whole_of(task):
    return task.samples("tune", 160 if task.name == "nano-scenes" else None)


@pytest.mark.parametrize("most", [1, 2, 3, 20])
def test_every_image_keeps_some_of_its_questions(task, most):
    whole = whole_of(task)
    by_image = defaultdict(list)
    for sample in whole:
        by_image[sample.image_id].append(sample)
    count = sum(min(most, len(own)) for own in by_image.values())
    drawn = task.draw("tune", count, questions_per_image=most, seed=3)
    # image by image, in the order of their first questions, each image's in the order of the split
    assert list(dict.fromkeys(s.image_id for s in drawn)) == list(by_image)
    place = {sample.id: n for n, sample in enumerate(whole)}
    keys = [(list(by_image).index(s.image_id), place[s.id]) for s in drawn]
    assert keys == sorted(set(keys))
    assert all(s in by_image[s.image_id] for s in drawn)
    times = Counter(s.image_id for s in drawn)
    assert times == {image: min(most, len(own)) for image, own in by_image.items()}


def test_a_larger_range_extends_a_smaller_one(task):
    drawn = task.draw("tune", 7, questions_per_image=2, seed=1)
    assert len(drawn) == 7
    for offset, count in ((0, 1), (0, 4), (1, 2), (3, 4), (6, 1)):
        found = task.draw("tune", count, offset, questions_per_image=2, seed=1)
        assert found == drawn[offset : offset + count]
    assert task.draw("tune", 7, 1) == task.samples("tune", 7, 1)


def test_the_seed_draws(task):
    first = task.draw("tune", 5, questions_per_image=1, seed=0)
    assert task.draw("tune", 5, questions_per_image=1, seed=0) == first
    others = [task.draw("tune", 5, questions_per_image=1, seed=seed) for seed in range(1, 6)]
    assert any(other != first for other in others)
    assert all([s.image_id for s in o] == [s.image_id for s in first] for o in others)


def test_nano_scenes_draws_as_one_who_reads_the_whole_split():
    """Its own way, the scenes of the range alone, against that of every task."""
    task = tasks.get("nano-scenes")
    for most, seed in ((1, 0), (3, 5), (8, 0), (30, 0)):
        wide = tasks.Task.draw(task, "fit", 60, 17, questions_per_image=most, seed=seed)
        assert task.draw("fit", 60, 17, questions_per_image=most, seed=seed) == wide
    found = task.draw("certify", 600, questions_per_image=1)
    assert len({s.image_id for s in found}) == 600


def test_each_question_is_as_likely_as_another():
    rows = [(f"image {i}", f"{i}-{j}") for i in range(2000) for j in range(8)]
    for most in (1, 3):
        drawn = few_an_image(rows, most, seed=11)
        times = Counter(place % 8 for place in drawn)
        assert chisquare([times[j] for j in range(8)]).pvalue > 0.001
    one, other = (few_an_image(rows, 1, seed) for seed in (1, 2))
    same = sum(a == b for a, b in zip(one, other, strict=True))
    assert 190 < same < 310  # 250 of 2,000 by chance


@pytest.mark.parametrize("task", ["one-method", *TABLES], indirect=True)
@pytest.mark.parametrize("most", [1, 2])
def test_too_few_samples_says_how_many_there_are(task, most):
    count = sum(min(most, n) for n in Counter(ASKED).values())
    unit = "question" if most == 1 else "questions"
    message = f"the split has {count} with {most} {unit} an image at most; ask for fewer"
    with pytest.raises(StudyError, match=message):
        task.draw("tune", 5, count - 4, questions_per_image=most)
    assert len(task.draw("tune", 5, count - 5, questions_per_image=most)) == 5
    assert len(task.draw("tune", None, questions_per_image=most)) == count


@pytest.mark.parametrize("task", TABLES, indirect=True)
def test_images_of_rows_that_are_not_drawn_are_not_read(task, monkeypatch):
    read = []
    real = Encoded.read
    monkeypatch.setattr(Encoded, "read", lambda self: read.append(self) or real(self))
    drawn = task.draw("tune", 2, questions_per_image=1)
    named = getattr(task._options, "columns", None) is None or task._options.columns.image_id
    assert len(read) == (2 if named else len(ASKED) + 2)
    assert drawn[0].load_image().size == (8, 6)
