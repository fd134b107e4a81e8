"""Tasks: nano-scenes and local folders, and how answers are scored."""

import json

import pytest
from PIL import Image

from resprune.errors import StudyError
from tuner import tasks


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.png")
    return tmp_path


def write(folder, *rows, split="tune"):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


ROW = {"image": "a.png", "question": "What color?", "answer": "Red"}


@pytest.mark.parametrize(
    ("prediction", "score"),
    [("red", 1.0), ("Red.", 1.0), (" RED \n", 1.0), ("dark red", 0.0), ("", 0.0), ("crimson", 1.0)],
)
def test_exact_match(prediction, score):
    assert tasks.exact_match(prediction, ("red", "crimson")) == score


def test_nano_scenes_is_seeded_and_grows(monkeypatch):
    task = tasks.get("nano-scenes")
    few, many = task.samples("tune", 5), task.samples("tune", 12)
    assert many[:5] == few
    assert task.samples("tune", 4, offset=3) == many[3:7]
    assert {s.image_id for s in many}.isdisjoint(s.image_id for s in task.samples("report", 12))
    assert few[0].load_image().size == (112, 112)
    assert all(task.score(sample.answers[0], sample) == 1.0 for sample in many)


@pytest.mark.parametrize(
    ("split", "message"),
    [("tunes", "Did you mean 'tune'"), ("train", "has seen split 'train' in training")],
)
def test_nano_scenes_refuses_other_splits(split, message):
    with pytest.raises(StudyError, match=message):
        tasks.get("nano-scenes").samples(split, 1)


def test_jsonl_reads_samples(folder):
    write(folder, ROW, {**ROW, "answer": "b", "id": "x", "group": "g"}, "")
    first, second = tasks.get("jsonl", folder=str(folder)).samples("tune", None)
    assert (first.id, first.image_id, first.answers, first.group) == (
        "tune-1",
        "a.png",
        ("Red",),
        "all",
    )
    assert (second.id, second.group) == ("x", "g")
    assert first.prompt.startswith("What color?\n")
    assert first.question == "What color?"
    assert first.load_image().getpixel((0, 0)) == (255, 0, 0)


def test_jsonl_image_version_follows_the_file(folder):
    write(folder, ROW)
    task = tasks.get("jsonl", folder=str(folder))
    before = task.samples("tune", 1)[0].image_version
    Image.new("RGB", (8, 6), "blue").save(folder / "a.png")
    assert task.samples("tune", 1)[0].image_version != before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"tune.jsonl: line 1: not valid JSON"),
        ("[1]", "expected an object"),
        ({**ROW, "questoin": 1}, "unknown key 'questoin'. Did you mean 'question'"),
        ({**ROW, "question": " "}, "'question' is missing or empty"),
        ({**ROW, "image": "../a.png"}, "is outside"),
        ({**ROW, "image": "/etc/hostname"}, "is outside"),
        ({**ROW, "image": "b.png"}, "no such file"),
        ({**ROW, "answer": ""}, "answers must be strings"),
        ({**ROW, "answer": 3}, "answers must be strings"),
        ({"image": "a.png", "question": "q"}, "task.metric = 'fidelity'"),
    ],
)
def test_jsonl_refuses_bad_lines(folder, row, message):
    write(folder, row)
    with pytest.raises(StudyError, match=message):
        tasks.get("jsonl", folder=str(folder)).samples("tune", None)


def test_jsonl_refuses_a_link_out_of_the_folder(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "a.png"
    Image.new("RGB", (2, 2)).save(outside)
    (folder / "link.png").symlink_to(outside)
    write(folder, {**ROW, "image": "link.png"})
    with pytest.raises(StudyError, match="is outside"):
        tasks.get("jsonl", folder=str(folder)).samples("tune", None)


def test_jsonl_without_answers_under_fidelity(folder):
    write(folder, {"image": "a.png", "question": "q"})
    samples = tasks.get("jsonl", folder=str(folder), labels=False).samples("tune", 1)
    assert samples[0].answers == ()


def test_an_image_that_is_no_image(folder):
    (folder / "a.png").write_text("not an image")
    write(folder, ROW)
    sample = tasks.get("jsonl", folder=str(folder)).samples("tune", 1)[0]
    with pytest.raises(StudyError, match=r"line 1: .*a\.png: not an image"):
        sample.load_image()


def test_jsonl_missing_splits_samples_and_ids(folder):
    write(folder, ROW, {**ROW, "id": "tune-1"})
    task = tasks.get("jsonl", folder=str(folder))
    with pytest.raises(StudyError, match=r"no split 'tun'.*Did you mean 'tune'"):
        task.samples("tun", 1)
    with pytest.raises(StudyError, match="the file has 2; ask for fewer"):
        task.samples("tune", 3)
    with pytest.raises(StudyError, match="id 'tune-1' is used twice"):
        task.samples("tune", 2)
    with pytest.raises(StudyError, match="no such folder"):
        tasks.get("jsonl", folder=str(folder / "nowhere"))
    with pytest.raises(StudyError, match=r"task\.folder is missing"):
        tasks.get("jsonl")


def test_unknown_task_and_option():
    with pytest.raises(StudyError, match=r"unknown task 'json'. Did you mean 'jsonl'"):
        tasks.get("json")
    with pytest.raises(StudyError, match="unexpected keyword argument 'colour'"):
        tasks.get("nano-scenes", colour=1)
