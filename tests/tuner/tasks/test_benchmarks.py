"""The nine benchmarks from folders in every form, offline, and a study of each."""

import importlib

import pytest

from resprune.errors import StudyError
from tests.tuner.tasks.benchmarks import KINDS, SPLITS, photograph, rows, write
from tuner import tasks
from tuner.results.schema import Results
from tuner.run import run_study
from tuner.study import study_from_dict
from tuner.tasks.benchmarks import rules as all_rules

DIVIDED = ("mmbench", "mmbench-cn", "pope", "vizwiz", "vqav2")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("hf")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def rules_of(task):
    names = {"mmbench-cn": "mmbench", "scienceqa-img": "scienceqa"}
    return importlib.import_module(f"{all_rules.__name__}.{names.get(task, task)}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SPLITS)
def test_rows_become_samples(name, kind, tmp_path):
    write(name, tmp_path / "set", kind)
    task = tasks.get(name, dataset=str(tmp_path / "set"))
    assert task.local
    found = task.samples(SPLITS[name], None)
    given, rules = rows(name), rules_of(name)
    assert len(found) == len(given)
    for sample, row in zip(found, given, strict=True):
        prompt = rules.prompt(row, "cn") if name == "mmbench-cn" else rules.prompt(row)
        assert sample.prompt == prompt
        assert sample.question == rules.question(row)
        assert sample.answers == rules.answers(row)
        assert task.score(sample.answers[0], sample) == rules.score(rules.answers(row)[0], row)
        assert task.score("qqq", sample) == 0.0
        image = photograph(row.get("image") or row["imageId"])
        assert sample.load_image().size == __import__("PIL.Image").Image.open(image).size
    images = len({row.get("image") or row.get("imageId") for row in given})
    assert len({sample.image_id for sample in found}) == images == 8
    assert len({sample.id for sample in found}) == len(found)
    said = [sample.answers[0] for sample in found]
    assert task.measures(said, found) == rules.summary(given, said)
    assert task.measures(said, found)


@pytest.mark.parametrize("name", DIVIDED)
def test_one_labelled_split_is_divided_by_image(name, tmp_path):
    write(name, tmp_path / "set")
    task = tasks.get(name, dataset=str(tmp_path / "set"))
    parts = {part: task.samples(part, None) for part in ("tune", "certify", "report")}
    images = [{s.image_version for s in samples} for samples in parts.values()]
    assert [len(each) for each in images] == [2, 4, 2]
    assert sum(len(each) for each in images) == len(set.union(*images))
    assert f"Split {SPLITS[name]!r} was divided by image with seed 0" in task.notes[0]


@pytest.mark.parametrize("name", SPLITS)
def test_a_study_of_each(name, tmp_path):
    write(name, tmp_path / "set")
    divide = {"split": SPLITS[name], "shares": {"tune": 0.5, "report": 0.5}}
    own = {"allow_tuning": True} if name == "mme" else {}
    study = study_from_dict(
        {
            "study": {"name": name, "trials": 2},
            "backbone": {"model": "nano-llava", "device": "cpu"},
            "task": {"name": name, "dataset": str(tmp_path / "set"), "divide": divide,
                     "max_new_tokens": 2, "metric": "fidelity", "tune": {"split": "tune"},
                     "report": {"split": "report"}, **own},
            "search": {"budget": [20], "seed_strategy": "l2_norm"},
            "report": {"examples": 1},
        }
    )  # fmt: skip
    run_study(study, tmp_path)
    results = Results.load(tmp_path / name)
    assert results.splits["report"].images == 4
    assert any("was divided by image with seed 0" in note for note in results.notes)
    assert (tmp_path / name / "config" / "pruning_config.json").is_file()


def test_mme_is_not_tuned_on_without_a_flag(tmp_path):
    write("mme", tmp_path / "set")
    data = {
        "study": {"name": "mme", "trials": 2},
        "backbone": {"model": "nano-llava", "device": "cpu"},
        "task": {"name": "mme", "dataset": str(tmp_path / "set"), "tune": {"split": "tune"},
                 "report": {"split": "report"}},
        "search": {"budget": [20]},
    }  # fmt: skip
    with pytest.raises(StudyError, match=r"'mme' has no samples to tune on.*allow_tuning = true"):
        run_study(study_from_dict(data), tmp_path)
    assert not (tmp_path / "mme" / "study.toml").exists()


def test_where_a_benchmark_lies_can_be_changed():
    assert tasks.get("pope").source == "lmms-lab-encoder/POPE"
    assert tasks.get("pope", organisation="lmms-lab").source == "lmms-lab/POPE"
    assert tasks.get("gqa", dataset="me/mine").source == "me/mine"
    with pytest.raises(StudyError, match="organisation"):
        tasks.get("pope", organisation="../..")
    with pytest.raises(StudyError, match=r"prompt of 'pope' is the benchmark's own"):
        tasks.get("pope", answer_format="Be brief.")


def test_offline_the_hub_is_one_clear_error():
    with pytest.raises(StudyError, match=r"'lmms-lab-encoder/POPE' cannot be loaded.*HF_HUB_OFF"):
        tasks.get("pope").samples("test", 1)


def test_a_stream_reads_the_first_rows_alone(tmp_path):
    write("pope", tmp_path / "set")
    task = tasks.get("pope", dataset=str(tmp_path / "set"), stream=5)
    found = task.samples("test", None)
    assert [s.question for s in found] == [row["question"] for row in rows("pope")[:5]]
    assert found[0].load_image().size == (128, 128)


def test_a_data_set_script_is_not_run(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "set.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(StudyError, match="cannot be loaded"):
        tasks.get("pope", dataset=str(folder)).samples("test", None)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("pope", {"answer": None}, "2 rows .*\n.*row 0: no row of 'pope'.*\n.*row 1"),
        ("scienceqa-img", {"choices": None}, "row 0: no row of 'scienceqa-img'"),
        ("textvqa", {"answers": []}, "row 0: no answer; add one"),
        ("mmbench", {"answer": "?"}, "row 0: no answer; add one"),
    ],
)
def test_rows_of_another_shape(name, change, message, tmp_path):
    write(name, tmp_path / "set", "jsonl", rows_=[{**row, **change} for row in rows(name)[:2]])
    with pytest.raises(StudyError, match=message):
        tasks.get(name, dataset=str(tmp_path / "set")).samples(SPLITS[name], None)


def test_columns_that_are_missing(tmp_path):
    short = [{k: v for k, v in row.items() if k != "hint"} for row in rows("mmbench")]
    write("mmbench", tmp_path / "a", rows_=short)
    assert tasks.get("mmbench", dataset=str(tmp_path / "a")).samples("dev", None)  # may be missing
    less = [{k: v for k, v in row.items() if k != "question"} for row in rows("mmbench")]
    write("mmbench", tmp_path / "b", rows_=less)
    with pytest.raises(StudyError, match="no column 'question', which 'mmbench' reads"):
        tasks.get("mmbench", dataset=str(tmp_path / "b")).samples("dev", None)


def test_a_corrupt_image_within_parquet_names_its_row(tmp_path):
    import datasets

    data = [{**row, "image": {"bytes": b"no image", "path": None}} for row in rows("pope")[:2]]
    (tmp_path / "data").mkdir()
    table = datasets.Dataset.from_list(data).cast_column("image", datasets.Image(decode=False))
    table.to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    sample = tasks.get("pope", dataset=str(tmp_path)).samples("test", 1)[0]
    with pytest.raises(StudyError, match="test: row 0: not an image"):
        sample.load_image()


def test_gqa_names_an_image_that_is_not_there(tmp_path):
    write("gqa", tmp_path / "set")
    data = [{**row, "imageId": "gone"} for row in rows("gqa")[:1]]
    import datasets

    folder = tmp_path / "set" / "testdev_balanced_instructions" / "data"
    datasets.Dataset.from_list(data).to_parquet(folder / "testdev-00000-of-00001.parquet")
    with pytest.raises(StudyError, match="no image 'gone' in"):
        tasks.get("gqa", dataset=str(tmp_path / "set")).samples("testdev", None)


def test_the_fixtures_are_those_of_the_script(tmp_path, monkeypatch):
    pytest.importorskip("skimage")
    from scripts import benchmark_fixtures

    monkeypatch.setattr(benchmark_fixtures, "OUT", tmp_path)
    benchmark_fixtures.main()
    for path in tmp_path.glob("*.jsonl"):
        assert path.read_bytes() == (photograph("x").parents[1] / path.name).read_bytes()
