"""What a task measures of all answers together, in the results of a study."""

import datasets
import pytest

from tests.tuner.tasks.benchmarks import write
from tuner import tasks
from tuner.output.report import write_report
from tuner.results.schema import Results
from tuner.run import run_study
from tuner.scoring.model import load_backbone
from tuner.study import BackboneSection, study_from_dict


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "hf"))
        write("pope", folder / "set")
        study = study_from_dict(
            {
                "study": {"name": "pope", "trials": 1},
                "backbone": {"model": "nano-llava", "device": "cpu"},
                "task": {"name": "pope", "dataset": str(folder / "set"), "max_new_tokens": 2,
                         "divide": {"split": "test", "shares": {"tune": 0.4, "report": 0.6}},
                         "tune": {"split": "tune"}, "report": {"split": "report"}},
                "search": {"budget": [30], "seed_strategy": "l2_norm"},
                "report": {"examples": 0},
            }
        )  # fmt: skip
        run_study(study, folder)
    return folder / "pope"


def test_rows_of_the_report_carry_lmms_evals_measures(run_dir):
    results = Results.load(run_dir)
    assert {row.kind for row in results.report} >= {"unpruned", "tuned", "random"}
    for row in results.report:
        assert set(row.measures) == {
            "pope_accuracy", "pope_precision", "pope_recall", "pope_f1_score", "pope_yes_ratio",
        }  # fmt: skip
        assert row.measures["pope_accuracy"] == pytest.approx(row.score.mean)
        assert row.measures["pope_yes_ratio"] == 0.5
    assert all(row.measures == {} for row in results.baselines)  # of the tune split


def test_the_report_shows_them(run_dir):
    page = write_report(run_dir).read_text()
    assert "pope_f1_score" in page
    assert page.count("pope_f1_score") == 1


def test_unpruned_measures_are_those_of_the_models_own_answers(run_dir):
    results = Results.load(run_dir)
    section = results.study["task"]
    task = tasks.get("pope", dataset=section["dataset"], max_new_tokens=2,
                     divide={"split": "test", "shares": {"tune": 0.4, "report": 0.6}})  # fmt: skip
    samples = task.samples("report", None)
    backbone = load_backbone(BackboneSection(model="nano-llava", device="cpu"))
    said = []
    for sample in samples:
        inputs = backbone.processor(
            images=sample.load_image(),
            text=backbone.chat_prompt(sample.prompt),
            return_tensors="pt",
        )
        output = backbone.model.generate(**inputs, max_new_tokens=2, do_sample=False)
        new = output[0, inputs["input_ids"].shape[1] :]
        said.append(backbone.processor.tokenizer.decode(new, skip_special_tokens=True).strip())
    (whole,) = (row for row in results.report if row.kind == "unpruned")
    assert whole.measures == pytest.approx(task.measures(said, samples))
