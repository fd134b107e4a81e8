"""``run MODEL --images --questions``: one command from images and questions to a config."""

import json
import tomllib

import pytest

from resprune import PruningConfig
from resprune.certificate import Claim
from resprune.errors import ResPruneError, StudyError
from studies.nano import model_dir
from studies.nano.scenes import generate_scene
from tests.tuner.test_cli import call
from tuner import certificate
from tuner.from_logs import Logs, keep, study_from_logs
from tuner.results.schema import Results
from tuner.study import load_study

QUICK = ("--trials", 5, "--quiet")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "photos"
    folder.mkdir()
    for i in range(24):
        generate_scene(710_000 + i).image.save(folder / f"{i:02}.png")
    return folder


def ask(photos, count, name="asked.jsonl"):
    path = photos.parent / name
    rows = [{"image": f"{i:02}.png", "question": "What color is the star?"} for i in range(count)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def logs(photos, count=24, loss=0.02, **options):
    return Logs("nano-llava", photos, ask(photos, count), Claim(loss=loss), **options)


def test_one_command_leads_to_a_certified_config(photos, tmp_path, capsys):
    """With a large loss, which 12 certify images can prove."""
    runs = tmp_path / "runs"
    arguments = ("run", "nano-llava", "--images", photos, "--questions", ask(photos, 24),
                 "--loss", 0.4, "--runs", runs, *QUICK)  # fmt: skip
    code, _, err = call(capsys, *arguments)
    assert code == 0, err
    folder = runs / "nano-llava-asked"
    results = Results.load(folder)
    assert results.certificate is not None
    assert results.certificate.metric == "fidelity"
    assert results.certificate.split.images == 12
    assert results.certificate.test == "exact"
    assert results.splits["tune"].images == 6
    config = PruningConfig.from_pretrained(folder / "config")
    assert config.certificate is not None
    assert any("12 are kept apart for the certificate" in note for note in results.notes)
    assert any("divided by image with seed 0" in note for note in results.notes)
    study = load_study(runs / "nano-llava-asked.toml")
    assert study.task.metric == "fidelity"
    assert study.study.objective.kind == "certified"
    code, _, err = call(capsys, *arguments)  # again: resumed, not refused
    assert code == 0, err
    code, _, err = call(capsys, *arguments, "--seed", 1)
    assert code == 2
    assert "holds another study than these images" in err
    assert "--name" in err


def test_too_few_images_run_and_say_what_they_could_prove(photos, tmp_path, capsys):
    runs = tmp_path / "runs"
    code, out, err = call(
        capsys, "run", "nano-llava", "--images", photos, "--questions", ask(photos, 9), "--runs",
        runs, *QUICK[:-1],
    )  # fmt: skip
    assert code == 0, err
    before, after = out.split("Report split", 1)
    least = certificate.smallest_loss(5, 0.95, "exact", improves=False)  # half of nine
    for part in (before, after):
        said = " ".join(part.split())
        assert "There are too few images to certify a loss below 2 points" in said
        assert f"less than {100 * least:.1f} points are lost" in said
        assert "149 are needed, so about 298 in all" in said
    written = tomllib.loads((runs / "nano-llava-asked.toml").read_text())
    assert written["study"]["name"] == "nano-llava-asked"
    assert "[study]" in before  # the study was printed
    config = PruningConfig.from_pretrained(runs / "nano-llava-asked" / "config")
    assert config.certificate is None


@pytest.mark.parametrize("count", [2, 3])
def test_the_fewest_images(photos, tmp_path, capsys, count):
    code, _, err = call(
        capsys, "run", "nano-llava", "--images", photos, "--questions", ask(photos, count),
        "--runs", tmp_path, *QUICK,
    )  # fmt: skip
    assert code == 0, err
    assert (tmp_path / "nano-llava-asked" / "config" / "pruning_config.json").is_file()


def test_one_image_is_too_few(photos):
    with pytest.raises(StudyError, match="1 images that differ; a study needs 2 at the least"):
        study_from_logs(logs(photos, 1), {})


def test_a_study_of_a_parquet_with_its_images_inside(photos, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    rows = [
        {"image": {"bytes": (photos / f"{i:02}.png").read_bytes(), "path": None}, "question": "q?"}
        for i in range(6)
    ]
    path = tmp_path / "asked.parquet"
    datasets.Dataset.from_list(rows).to_parquet(path)
    study = study_from_logs(Logs("nano-llava", None, path, Claim(loss=0.02)), {})
    assert study.task.tune.samples == 3


def test_seed_strategies_and_budgets_are_those_of_the_model(photos):
    studies = {
        model: study_from_logs(
            Logs(model, photos, ask(photos, 24), Claim(loss=0.4)), {"study": {"trials": 7}}
        )
        for model in ("nano-llava", "nano-qwen2.5-vl")
    }
    tried = {name: s.search.options["resprune"]["seed_strategy"] for name, s in studies.items()}
    assert tried["nano-llava"][0] == "cls_attention"
    assert tried["nano-qwen2.5-vl"][0] != "cls_attention"
    assert studies["nano-llava"].study.trials == 7
    folder = Logs(str(model_dir("nano-llava")), photos, ask(photos, 24), Claim(loss=0.4))
    assert study_from_logs(folder, {}).search == studies["nano-llava"].search
    kept = [str(budget) for budget in studies["nano-llava"].budgets()]
    assert kept == ["147", "98", "65", "43", "22"]  # of 196 for every image


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--questions", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
        (("--loss", "0.1"), "--loss goes with --questions"),
        (("--images", "x"), "--images goes with --questions"),
    ],
)
def test_wrong_options(capsys, arguments, message):
    code, _, err = call(capsys, "run", "nano-llava", *arguments)
    assert code == 2
    assert message in " ".join(err.split())


def test_a_loss_out_of_range_and_an_unknown_model(photos, capsys):
    given = ("--images", photos, "--questions", ask(photos, 24))
    code, _, err = call(capsys, "run", "nano-llava", *given, "--loss", 2)
    assert code == 2
    assert "--loss: Input should be less than 1, not 2.0" in err
    code, _, err = call(capsys, "run", "nano-lava", *given)
    assert code == 2
    assert "Did you mean 'nano-llava'" in err


def test_a_study_that_cannot_be_written_leaves_nothing(photos, tmp_path):
    study = study_from_logs(logs(photos), {})
    (tmp_path / "file").write_text("")
    with pytest.raises(ResPruneError, match="cannot be written"):
        keep(study, tmp_path / "file" / "runs")


def test_smallest_loss_is_the_least_that_can_be_proved():
    for images, questions, test in ((20, 1, "exact"), (149, 1, "exact"), (90, 3, "betting")):
        found = certificate.smallest_loss(images, 0.95, test, False, questions)
        needs = [
            certificate.images_to_prove(Claim(loss=loss), test, False, questions)
            for loss in (found, found - 0.001)
        ]
        assert needs[0] <= images < needs[1]
    assert certificate.smallest_loss(149, 0.95, "exact", improves=False) == 0.02
    assert certificate.smallest_loss(0, 0.95, "exact", improves=False) is None
