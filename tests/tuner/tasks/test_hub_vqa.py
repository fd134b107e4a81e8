"""The task hub-vqa, on small data sets of the hub's format in a local folder."""

import io
import json
import tomllib

import pytest
from PIL import Image

from resprune.errors import StudyError
from tuner import cli, tasks
from tuner.stages.opened import load_samples
from tuner.study import dump_study, load_study, study_from_dict
from tuner.tasks import rows as cells

COLORS = ("red", "lime", "blue", "black", "white", "gray")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    import datasets

    folder = tmp_path_factory.mktemp("hf")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder))
    return folder


def png(color, size=(8, 6)):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def rows(count=6, **columns):
    """Rows as TextVQA has them; two questions an image."""
    data = {
        "image": [{"bytes": png(COLORS[i // 2]), "path": None} for i in range(count)],
        "question": [f"what COLOR is number {i}?" for i in range(count)],
        "answers": [["other", *[COLORS[i // 2]] * 9] for i in range(count)],
        "image_id": [f"img{i // 2}" for i in range(count)],
        "question_id": list(range(100, 100 + count)),
    }
    return {**data, **columns}


def write(folder, data, split="train", image=True):
    import datasets

    table = datasets.Dataset.from_dict(data)
    if image:
        table = table.cast_column("image", datasets.Image(decode=False))
    (folder / "data").mkdir(exist_ok=True, parents=True)
    table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def task(folder, **options):
    columns = {"image_id": "image_id", "id": "question_id"}
    return tasks.get("hub-vqa", dataset=str(folder), columns=options.pop("columns", columns),
                     **options)  # fmt: skip


def test_reads_samples_by_split_count_and_offset(tmp_path):
    write(tmp_path, rows())
    write(tmp_path, rows(2), "validation")
    found = task(tmp_path, question_transform="capitalize").samples("train", 3, offset=2)
    assert [s.id for s in found] == ["102", "103", "104"]
    assert [s.image_id for s in found] == ["img1", "img1", "img2"]
    assert found[0].question == "What color is number 2?"
    assert found[0].prompt == (
        "What color is number 2?\nAnswer the question using a single word or phrase."
    )
    assert found[0].answers == ("lime",) * 9 + ("other",)  # the most frequent is the gold one
    assert found[0].load_image().getpixel((0, 0)) == (0, 255, 0)
    assert found[2].load_image().size == (8, 6)
    assert found[0].image_version == found[1].image_version != found[2].image_version
    assert len(task(tmp_path).samples("validation", None)) == 2
    assert task(tmp_path).samples("train", 3, offset=2)[0].question == "what COLOR is number 2?"


def test_images_are_decoded_when_asked_for(tmp_path, monkeypatch):
    write(tmp_path, rows())
    opened = []
    real = cells.open_image
    monkeypatch.setattr(cells, "open_image", lambda *a: opened.append(a) or real(*a))
    samples = task(tmp_path).samples("train", None)
    assert not opened
    assert not any(isinstance(cell, bytes) for s in samples for cell in vars(s).values())
    samples[5].load_image()
    assert len(opened) == 1


def test_without_an_id_column_images_are_told_apart_by_their_bytes(tmp_path):
    write(tmp_path, rows())
    found = task(tmp_path, columns={}).samples("train", None)
    assert [s.id for s in found] == [f"train-{i}" for i in range(6)]
    ids = [s.image_id for s in found]
    assert ids == [ids[0]] * 2 + [ids[2]] * 2 + [ids[4]] * 2
    assert len(set(ids)) == 3


def test_scorers(tmp_path):
    write(tmp_path, rows())
    vqa, exact = task(tmp_path), task(tmp_path, scorer="exact")
    (sample,) = vqa.samples("train", 1)
    assert vqa.score("The red", sample) == 1.0
    assert vqa.score("other", sample) == pytest.approx(0.3)
    assert exact.score("Other.", sample) == 1.0
    assert exact.score("the red", sample) == 0.0


@pytest.mark.parametrize(
    "answers",
    ["red", ["red"], [{"answer": "red", "answer_confidence": "yes"}], {"answer": ["red", "red"]}],
)
def test_shapes_of_answers(tmp_path, answers):
    write(tmp_path, rows(1, answers=[answers]))
    assert set(task(tmp_path).samples("train", 1)[0].answers) == {"red"}


def test_images_beside_the_table(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    row = {"file_name": "a.png", "question": "q", "answers": "red"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    (sample,) = task(tmp_path, columns={}).samples("train", 1)
    assert sample.load_image().getpixel((0, 0)) == (255, 0, 0)


def test_a_table_cannot_reach_out_of_its_folder(tmp_path):
    outside = tmp_path / "outside.png"
    Image.new("RGB", (4, 4)).save(outside)
    image = [{"bytes": None, "path": str(outside)}]
    folder = write(tmp_path / "set", rows(1, image=image))
    with pytest.raises(StudyError, match=r"row 0: image '.*outside\.png' is outside"):
        task(folder).samples("train", 1)


def test_fidelity_needs_no_answers(tmp_path):
    data = rows(1)
    del data["answers"]
    write(tmp_path, data)
    assert task(tmp_path, metric="fidelity").samples("train", 1)[0].answers == ()
    with pytest.raises(StudyError, match=r"task\.columns: no column 'answers'"):
        task(tmp_path).samples("train", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": [" "]}, r"train: row 0: 'question' is missing or no text"),
        ({"question": [3]}, r"row 0: 'question' is missing or no text \(3\)"),
        ({"answers": [[""]]}, r"row 0: no answer;.*fidelity"),
        ({"answers": [3]}, r"row 0: 'answers' holds no answers"),
        ({"image": [{"bytes": None, "path": None}]}, r"row 0: no image; give a table"),
    ],
)
def test_bad_rows_are_named(tmp_path, change, message):
    write(tmp_path, rows(1, **change))
    with pytest.raises(StudyError, match=message):
        task(tmp_path).samples("train", 1)


def test_an_image_that_is_none(tmp_path):
    write(tmp_path, rows(1, image=[{"bytes": b"text", "path": None}]))
    (sample,) = task(tmp_path).samples("train", 1)
    with pytest.raises(StudyError, match=r"train: row 0: not an image"):
        sample.load_image()


@pytest.mark.parametrize(
    ("options", "split", "message"),
    [
        ({}, "trian", "no split 'trian'. Did you mean 'train'"),
        ({"columns": {"question": "qestion"}}, "train", "no column 'qestion'. Did you mean"),
        ({"columns": {"id": "image_id"}}, "train", "id 'img0' is used twice"),
        ({"scorer": "vqaa"}, "train", "scorer: unknown scorer 'vqaa'. Did you mean 'vqa'"),
        ({"config": "nowhere"}, "train", r"task\.dataset: .* cannot be loaded \(ValueError"),
    ],
)
def test_wrong_options(tmp_path, options, split, message):
    write(tmp_path, rows(2))
    with pytest.raises(StudyError, match=message):
        task(tmp_path, **options).samples(split, None)


def test_too_many_samples(tmp_path):
    write(tmp_path, rows(2))
    with pytest.raises(StudyError, match="the split has 2; ask for fewer"):
        task(tmp_path).samples("train", 2, offset=1)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("pandas", "no folder and no hub id"),
        ("./nowhere", "no folder and no hub id"),
    ],
)
def test_no_such_data_set(dataset, message):
    with pytest.raises(StudyError, match=message):
        tasks.get("hub-vqa", dataset=dataset)


def test_the_data_set_must_be_named():
    with pytest.raises(StudyError, match="task 'hub-vqa': key 'dataset' is missing"):
        tasks.get("hub-vqa")


def test_without_a_network(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    absent = tasks.get("hub-vqa", dataset="nobody/nothing")
    with pytest.raises(StudyError, match=r"'nobody/nothing' cannot be loaded.*HF_HOME.*folder"):
        absent.samples("train", 1)


def test_code_in_a_folder_is_not_run(tmp_path):
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(StudyError, match="cannot be loaded"):
        task(folder).samples("train", 1)
    assert not (tmp_path / "ran").exists()


STUDY = """
[study]
name = "s"
[backbone]
model = "nano-llava"
[task]
name = "hub-vqa"
dataset = "set"
columns = { id = "question_id", image_id = "image_id" }
scorer = "exact"
question_transform = "capitalize"
tune = { split = "train", samples = 2 }
report = { split = "train", samples = 2, offset = 2 }
[search]
budget = [6]
[alpha]
adaptive = false
"""


@pytest.fixture
def study(tmp_path):
    write(tmp_path / "set", rows())
    path = tmp_path / "s.toml"
    path.write_text(STUDY)
    return path


def test_a_study_names_its_data_set(study):
    config = load_study(study)
    assert config.task.dataset == str(study.parent / "set")
    assert study_from_dict(tomllib.loads(dump_study(config))) == config
    made = tasks.make(config.task)
    splits = load_samples(config, made)
    assert [s.id for s in splits["report"]] == ["102", "103"]
    assert splits["tune"][0].question == "What color is number 0?"
    assert made.score("the red", splits["tune"][0]) == 0.0  # exact match
    other = load_study(study, {"task": {"scorer": "vqa"}})
    assert other.changed_since(config) == ["task.scorer"]


def test_an_image_in_two_splits_is_an_error(study):
    config = load_study(study, {"task": {"tune": {"samples": 3}, "report": {"offset": 3}}})
    with pytest.raises(StudyError, match=r"task\.report: image 'img1' is in tune too"):
        load_samples(config, tasks.make(config.task))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('scorer = "exact"', 'scorer = "exat"', "Did you mean 'exact'"),
        ("{ id =", "{ idd =", r"unknown key 'task\.columns\.idd'. Did you mean 'id'"),
        (
            'scorer = "exact"',
            'data = "set"',
            "task: 'data' is a key of the task 'table', not",
        ),
        (
            'name = "hub-vqa"',
            'name = "nano-scenes"',
            "'dataset' is a key of the task 'gqa' and 'hub-vqa' and .*, not of 'nano-scenes'",
        ),
    ],
)
def test_wrong_keys_of_a_study(study, old, new, message):
    study.write_text(STUDY.replace(old, new))
    with pytest.raises(StudyError, match=message):
        tasks.make(load_study(study).task)


def test_validate_reads_a_local_data_set(study, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.app(["validate", str(study)])
    assert not caught.value.code
    assert "fine (60 trials of resprune at 6 tokens)" in capsys.readouterr().out
    study.write_text(STUDY.replace('"question_id"', '"qestion_id"'))
    with pytest.raises(SystemExit) as caught:
        cli.app(["validate", str(study)])
    assert caught.value.code == 2
    assert "Did you mean 'question_id'" in capsys.readouterr().err
