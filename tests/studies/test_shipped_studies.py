"""Every shipped study: it loads, and it is checked without the hub."""

import pytest

from resprune.budget import read_budget
from studies import nano
from tuner.study import find_study, load_study, study_names
from tuner.study.check import check_study, usual_backbone

REAL = {
    "llava-1.5-7b": ("llava-hf/llava-1.5-7b-hf", (288, 192, 128, 64)),
    "llava-1.5-13b": ("llava-hf/llava-1.5-13b-hf", (288, 192, 128, 64)),
    "llava-v1.6-vicuna-7b": ("llava-hf/llava-v1.6-vicuna-7b-hf", (1440, 960, 640, 320, 160)),
    "llava-v1.6-mistral-7b": ("llava-hf/llava-v1.6-mistral-7b-hf", (1440, 960, 640, 320, 160)),
    "qwen2.5-vl-3b": ("Qwen/Qwen2.5-VL-3B-Instruct", (0.5, 0.333, 0.222, 0.111)),
    "qwen2.5-vl-7b": ("Qwen/Qwen2.5-VL-7B-Instruct", (0.5, 0.333, 0.222, 0.111)),
}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """Fail a test that reaches for a socket."""

    def refuse(*arguments):
        raise AssertionError(f"a socket was opened: {arguments}")

    monkeypatch.setattr("socket.socket.connect", refuse)


def test_every_study_is_of_a_known_model():
    embedded = {name for name in study_names() if name not in REAL}
    assert set(REAL) < set(study_names())
    assert all(name.startswith("nano-") for name in embedded)


@pytest.mark.parametrize("name", study_names())
def test_every_study_loads_under_its_own_name(name):
    study = load_study(find_study(name))
    assert study.study.name == name
    assert study.task.report.samples >= 300
    if name.endswith("-compare"):  # of all methods, and certifies nothing
        assert len(study.search.method) >= 10
        assert {"fastv", "dart", "pyramiddrop", "sparsevlm", "holov"} < set(study.search.method)
        assert len(study.budgets()) == 2
        return
    assert study.task.tune.samples >= 300
    if name.endswith("-methods"):  # compares settings, and fits nothing
        assert study.task.fit is None
        assert len(study.search.method) == 9
    else:
        assert study.task.fit.samples >= 2000


@pytest.mark.parametrize("name", [*nano.model_names(), *REAL])
def test_every_study_is_checked_without_the_hub(name):
    study = load_study(find_study(name))
    fine, *rest = check_study(study)
    assert fine.startswith("fine (")
    if name not in REAL:
        (claim,) = rest
        assert claim.startswith("claim: a loss under 0.02 (absolute) at confidence 0.95, by exact")
        return
    model, budgets = REAL[name]
    assert rest == [
        f"not checked: the model {model}, which is on the hub",
        "not checked: the data set lmms-lab-encoder/textvqa, which is on the hub",
    ]
    assert study.search.budget == tuple(map(read_budget, budgets))
    assert study.backbone.model == model
    assert study.backbone.dtype == "bfloat16"
    assert study.backbone.revision
    assert study.task.revision
    assert study.task.tune.split == study.task.fit.split == "train"
    assert study.task.report.split == "validation"
    assert study.study.objective.kind == "certified"
    assert study.task.certify.questions_per_image == 1


def test_strategies_are_all_that_the_family_offers():
    for name in REAL:
        study = load_study(find_study(name))
        offered = usual_backbone(study.backbone.family).seed_signals
        assert set(study.search.options["resprune"]["seed_strategy"]) == {
            *offered,
            "l2_norm",
            "relevance",
        }


def test_what_does_not_fit_the_family_is_said():
    path = find_study("qwen2.5-vl-3b")
    study = load_study(path, {"search": {"seed_strategy": ["cls_attention"]}})
    assert any("warning" in line and "'cls_attention'" in line for line in check_study(study))
    study = load_study(find_study("llava-1.5-7b"), {"search": {"budget": [577]}})
    assert any("577 is over the 576" in line for line in check_study(study))
