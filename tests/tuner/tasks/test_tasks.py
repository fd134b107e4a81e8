"""Tasks: nano-scenes and local folders, and how answers are scored."""

import json

import pytest
from PIL import Image

from resprune.errors import ResPruneError, StudyError
from tuner import tasks
from tuner.tasks.base import exact_match


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
    assert exact_match(prediction, ("red", "crimson")) == score


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
    [
        ("tunes", "Did you mean 'tune'"),
        ("train", "no split 'train' that the model has not seen"),
    ],
)
def test_nano_scenes_refuses_other_splits(split, message):
    with pytest.raises(StudyError, match=message):
        tasks.get("nano-scenes").samples(split, 1)


def test_jsonl_reads_samples(folder):
    write(folder, ROW, {**ROW, "answer": "b", "id": "x", "group": "g"}, "")
    first, second = tasks.get("table", data=str(folder)).samples("tune", None)
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


def test_jsonl_lines_end_where_the_file_says_so(folder):
    text = "one\u2028two"
    row = json.dumps({**ROW, "question": text}, ensure_ascii=False)
    (folder / "tune.jsonl").write_bytes(f"{row}\r\n\n{row}".encode())
    samples = tasks.get("table", data=str(folder)).samples("tune", None)
    assert [(s.id, s.question) for s in samples] == [("tune-1", text), ("tune-3", text)]


def test_jsonl_answers_keep_their_order_unless_one_is_given_more_often(folder):
    write(folder, {**ROW, "answers": ["b", "a"]}, {**ROW, "answers": ["b", "a", "a"]})
    one, two = tasks.get("table", data=str(folder)).samples("tune", None)
    assert (one.answers, two.answers) == (("b", "a"), ("a", "a", "b"))


def test_answer_format_is_appended(folder):
    write(folder, ROW)
    for text, prompt in (("Be brief.", "What color?\nBe brief."), ("", "What color?")):
        task = tasks.get("table", data=str(folder), answer_format=text)
        assert task.samples("tune", 1)[0].prompt == prompt
    plain = tasks.get("nano-scenes").samples("tune", 1)[0]
    (asked,) = tasks.get("nano-scenes", answer_format="Be brief.").samples("tune", 1)
    assert (plain.prompt, asked.prompt) == (plain.question, f"{plain.question} Be brief.")


def test_jsonl_image_version_follows_the_file(folder):
    write(folder, ROW)
    task = tasks.get("table", data=str(folder))
    before = task.samples("tune", 1)[0].image_version
    Image.new("RGB", (8, 6), "blue").save(folder / "a.png")
    assert task.samples("tune", 1)[0].image_version != before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"tune.jsonl: line 1: not valid JSON"),
        ("[1]", "expected an object"),
        ({"image": "a.png", "questoin": "q"}, "no column 'question'. Did you mean 'questoin'"),
        ({"image": "a.png", "question": "q", "anwser": "a"}, "'anwser'. Did you mean 'answer'"),
        ({**ROW, "question": " "}, "'question' is missing or no text"),
        ({**ROW, "image": "../a.png"}, "is outside"),
        ({**ROW, "image": "/etc/hostname"}, "is outside"),
        ({**ROW, "image": "b.png"}, "no such file"),
        ({**ROW, "answer": ""}, "line 1: no answer"),
        ({**ROW, "answer": 3}, "line 1: 'answers' holds no answers"),
        ({"image": "a.png", "question": "q"}, "task.metric = 'fidelity'"),
    ],
)
def test_jsonl_refuses_bad_lines(folder, row, message):
    write(folder, row)
    with pytest.raises(StudyError, match=message):
        tasks.get("table", data=str(folder)).samples("tune", None)


def test_jsonl_refuses_a_link_out_of_the_folder(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "a.png"
    Image.new("RGB", (2, 2)).save(outside)
    (folder / "link.png").symlink_to(outside)
    write(folder, {**ROW, "image": "link.png"})
    with pytest.raises(StudyError, match="is outside"):
        tasks.get("table", data=str(folder)).samples("tune", None)


def test_jsonl_without_answers_under_fidelity(folder):
    write(folder, {"image": "a.png", "question": "q"})
    samples = tasks.get("table", data=str(folder), metric="fidelity").samples("tune", 1)
    assert samples[0].answers == ()


def test_an_image_that_is_no_image(folder):
    (folder / "a.png").write_text("not an image")
    write(folder, ROW)
    sample = tasks.get("table", data=str(folder)).samples("tune", 1)[0]
    with pytest.raises(StudyError, match=r"line 1: .*a\.png: not an image"):
        sample.load_image()


def test_jsonl_missing_splits_samples_and_ids(folder):
    write(folder, ROW, {**ROW, "id": "tune-1"})
    task = tasks.get("table", data=str(folder))
    with pytest.raises(StudyError, match=r"no split 'tun'.*Did you mean 'tune'"):
        task.samples("tun", 1)
    with pytest.raises(StudyError, match="the split has 2; ask for fewer"):
        task.samples("tune", 3)
    with pytest.raises(StudyError, match="id 'tune-1' is used twice"):
        task.samples("tune", 2)
    with pytest.raises(StudyError, match="no such file or folder"):
        tasks.get("table", data=str(folder / "nowhere"))
    with pytest.raises(StudyError, match="task 'table': key 'data' is missing"):
        tasks.get("table")


def test_unknown_task_and_option():
    with pytest.raises(StudyError, match=r"unknown task 'tabel'. Did you mean 'table'"):
        tasks.get("tabel")
    with pytest.raises(StudyError, match=r"'nano-scenes': unknown key 'colour'. Allowed: answer"):
        tasks.get("nano-scenes", colour=1)
    with pytest.raises(StudyError, match=r"task 'table': max_new_tokens: .*, not 0"):
        tasks.get("table", data=".", max_new_tokens=0)


def test_a_file_adds_a_task(monkeypatch, folder):
    from tuner.study import study_from_dict
    from tuner.tasks import base

    monkeypatch.setattr(base, "_TASKS", dict(base._TASKS))

    class Options(tasks.TaskOptions):
        color: str = "red"

    @tasks.register
    class Colors(tasks.Task):
        name = "colors"
        options = Options

        def samples(self, split, count, offset=0):
            return []

    spec = {"samples": 1}
    data = {
        "study": {"name": "s"},
        "backbone": {"model": "nano-llava"},
        "task": {"name": "colors", "color": "blue", "tune": {"split": "a", **spec},
                 "report": {"split": "b", **spec}},
        "search": {"budget": [6]},
    }  # fmt: skip
    study = study_from_dict(data)
    assert study.task.color == "blue"
    assert isinstance(tasks.make(study.task), Colors)
    with pytest.raises(ResPruneError, match="'colors' is taken by Colors"):
        tasks.register(type("Other", (Colors,), {}))
    del data["task"]["color"]
    data["task"]["colr"] = "blue"
    with pytest.raises(StudyError, match=r"unknown key 'task\.colr'. Did you mean 'color'"):
        study_from_dict(data)
