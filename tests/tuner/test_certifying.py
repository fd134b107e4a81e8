"""``resprune-tune certify`` and ``plan``: the claim of a config on new data, and what it needs."""

import json

import numpy as np
import pytest

from resprune import PruningConfig, Setting
from resprune.certificate import Claim
from resprune.errors import ResPruneError, StudyError
from resprune.setting import unpruned
from tuner import certificate, tasks
from tuner.certifying import certify_config
from tuner.cli import main
from tuner.planning import plan_study
from tuner.scoring.bench import Bench
from tuner.scoring.model import load_backbone
from tuner.scoring.split import Split
from tuner.study import find_study, load_study, study_from_dict

TASK = """
[task]
name = "nano-scenes"
metric = "{metric}"
certify = {{ split = "certify", samples = {samples}, offset = 5000, questions_per_image = {per} }}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A config that keeps nearly everything at 180 tokens, and nearly nothing at 2."""
    folder = tmp_path_factory.mktemp("config")
    table = [Setting.of("resprune", count, alpha=0.0) for count in (180, 2)]
    PruningConfig.from_dict(
        {
            "backbone": {"family": "llava", "id": "nano-llava"},
            "default": {"count": 180},
            "table": table,
        }
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("certify")


def task_file(tmp_path, samples=64, per=1, metric="score"):
    path = tmp_path / "task.toml"
    path.write_text(TASK.format(samples=samples, per=per, metric=metric))
    return str(path)


def run(config, work, task, loss=0.3, **options):
    return certify_config(config, task, Claim(loss=loss), folder=work, **options)


@pytest.fixture(scope="module")
def by_hand(config, work):
    """Scores of both policies on the 64 images, by name."""
    study = load_study(find_study("nano-llava"))
    task = tasks.make(study.task)
    samples = task.draw("certify", 64, 5000, questions_per_image=1, seed=0)
    from resprune import NounExtractor

    bench = Bench.open(load_backbone(study.backbone), task, "score", work, NounExtractor())
    split = Split("certify", samples, bench)
    found = PruningConfig.from_pretrained(config)
    scores = {b: split.score(found.policy(b)) for b in (180, 2)}
    whole = split.score(unpruned())
    bench.outcomes.close()
    return split.images, whole, scores


def test_betting_stops_at_the_image_at_which_it_knows(config, work, tmp_path, by_hand):
    names, whole, scores = by_hand
    claim = Claim(loss=0.3)
    order = certificate.drawn_order(names, 0)
    each = certificate.margins(whole, scores[180], names, claim, order)
    wealth = certificate.log_wealth(each, bound=0.7)
    stop = int(np.argmax(wealth >= np.log(20))) + 1
    assert 1 < stop < 64
    found = run(config, work, task_file(tmp_path))
    assert (found.verdict, found.images) == ("certified", stop)
    assert np.log(found.wealth) == pytest.approx(wealth[stop - 1])
    assert found.loss == pytest.approx(0.3 + each[:stop].mean())
    before = run(config, work, task_file(tmp_path), images=stop - 1)
    assert before.verdict == "undecided"


def test_a_policy_that_loses_is_refuted(config, work, tmp_path):
    found = run(config, work, task_file(tmp_path), loss=0.05, budget=2)
    assert found.verdict == "refuted"
    assert found.opposite >= 20
    assert found.loss > 0.05


def test_exact_looks_once_at_the_number_fixed_beforehand(config, work, tmp_path, by_hand):
    _, whole, scores = by_hand
    found = run(config, work, task_file(tmp_path), test="exact", images=64)
    worse = int(((whole == 1) & (scores[180] == 0)).sum())
    better = int(((whole == 0) & (scores[180] == 1)).sum())
    assert (found.images, found.worse, found.better) == (64, worse, better)
    assert found.p_value == pytest.approx(certificate.exact_p_value(worse, better, 64, 0.3))
    assert found.loss == pytest.approx((worse - better) / 64)
    assert found.wealth is None


def test_questions_of_an_image_are_one_bet(config, work, tmp_path):
    found = run(config, work, task_file(tmp_path, samples=64, per=4))
    assert found.split.images == 16
    assert found.questions == 4 * found.images


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": "exact"}, "fix how many images it looks at by --images"),
        ({"images": 65}, "certify split of .* has 64"),
        ({"budget": 7}, "budget 7 is not in the pruning config"),
        ({"loss": 0.0001, "test": "exact", "images": 20}, "images"),
    ],
)
def test_what_cannot_be_tested_is_refused(config, work, tmp_path, options, message):
    if options.get("loss"):
        options = {**options, "images": 20}
        task = task_file(tmp_path, metric="fidelity")
    else:
        task = task_file(tmp_path)
    with pytest.raises(ResPruneError, match=message):
        run(config, work, task, **options)


def test_exact_needs_one_question_an_image(config, work, tmp_path):
    with pytest.raises(StudyError, match="betting"):
        run(config, work, task_file(tmp_path, per=4), test="exact", images=16)


def test_a_task_without_a_certify_split(config, work, tmp_path):
    path = tmp_path / "task.toml"
    path.write_text('[task]\nname = "nano-scenes"\n')
    with pytest.raises(StudyError, match=r"task\.certify is missing"):
        run(config, work, str(path))


@pytest.mark.parametrize(("loss", "budget", "code"), [("0.3", "180", 0), ("0.05", "2", 1)])
def test_the_exit_code_is_the_verdict(
    config, work, tmp_path, capsys, monkeypatch, loss, budget, code
):
    arguments = ["certify", str(config), "--task", task_file(tmp_path), "--loss", loss]
    arguments += ["--budget", budget, "--folder", str(work), "--json"]
    monkeypatch.setattr("sys.argv", ["resprune-tune", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == ("certified" if code == 0 else "refuted")


def test_a_loss_out_of_range_names_the_option(config, tmp_path, capsys, monkeypatch):
    arguments = ["certify", str(config), "--task", task_file(tmp_path), "--loss", "1.5"]
    monkeypatch.setattr("sys.argv", ["resprune-tune", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "loss" in error
    assert "1.5" in error


def small(**task):
    return study_from_dict(
        {
            "study": {"name": "p", "objective": {"kind": "certified", "loss": 0.02}},
            "backbone": {"model": "nano-llava", "device": "cpu"},
            "task": {
                "name": "nano-scenes",
                "tune": {"split": "tune", "samples": 40, "questions_per_image": 1},
                "certify": {"split": "certify", "samples": 300, "questions_per_image": 1},
                "report": {"split": "report", "samples": 8},
                **task,
            },
            "search": {"budget": [64, 6]},
        }
    )


def test_a_plan_from_a_guess_is_the_power_of_the_test():
    plan = plan_study(small(), worse=0.015, better=0.015)
    assert plan.least_images == 149
    first = plan.budgets[0]
    assert first.images == certificate.images_needed(0.015, 0.015, Claim(loss=0.02), "exact")
    (split,) = [s for s in plan.splits if s.split == "certify"]
    assert split.needs == first.images
    assert split.passes == 300 * 3  # two budgets and the unpruned model


def test_a_pilot_counts_what_flips():
    study = small()
    plan = plan_study(study, pilot=40)
    assert "pilot of 40" in plan.source
    wide, narrow = plan.budgets
    assert narrow.worse > wide.worse  # six tokens lose more than 64, or nothing was pruned
    assert narrow.images is None
    assert narrow.images_if_level > 0
    assert all(np.isfinite(s.seconds) for s in plan.splits)


def test_no_answer_can_agree_more_than_the_unpruned_models_own():
    """A share of the unpruned score is claimed, which is 1 under fidelity."""
    data = small(metric="fidelity").model_dump(mode="json", exclude_none=True)
    data["study"]["objective"] = {"kind": "pareto", "tolerance": 0.02}
    plan = plan_study(study_from_dict(data), pilot=20)
    assert [row.better for row in plan.budgets] == [0.0, 0.0]
    assert [row.images_if_level for row in plan.budgets] == [None, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"worse": 0.1}, "give both"),
        ({"worse": -0.1, "better": 0.1}, "a share from 0"),
        ({"worse": 0.7, "better": 0.6}, "more than all"),
    ],
)
def test_a_guess_that_is_none(options, message):
    with pytest.raises(StudyError, match=message):
        plan_study(small(), **options)


def test_a_study_that_claims_nothing_has_no_plan():
    data = small().model_dump(mode="json", exclude_none=True)
    data["study"]["objective"] = {"kind": "pareto"}
    del data["task"]["certify"]
    with pytest.raises(StudyError, match="nothing is claimed"):
        plan_study(study_from_dict(data), worse=0.1, better=0.1)


def test_images_that_chose_the_config_are_warned_of(config, work, tmp_path):
    from resprune.certificate import Certificate, CertifySplit, Tested, policy_digest
    from resprune.config import CONFIG_FILE

    plain = PruningConfig.from_pretrained(config)
    policy = plain.policy(180)
    own = Certificate.sealed(
        claim=Claim(loss=0.3),
        test="exact",
        metric="score",
        split=CertifySplit(
            name="certify", offset=4990, samples=20, images=20, questions_per_image=1
        ),
        attempt=1,
        order=(Tested(budget=policy.budget, tokens=180, policy=policy_digest(policy, None)),),
        choices="0" * 32,
    )
    data = {**plain.to_dict(), "certificate": own.model_dump(mode="json")}
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / CONFIG_FILE).write_text(json.dumps(data))
    with pytest.warns(UserWarning, match="samples 4990 to 5009 .* no new test"):
        run(tmp_path / "own", work, task_file(tmp_path))


def test_a_claim_about_nats_is_said_in_nats(config, work, tmp_path):
    from rich.console import Console

    from tuner.output.plan import show_certification

    task = task_file(tmp_path, samples=16, metric="log_likelihood")
    with pytest.raises(StudyError, match="--clip is missing"):
        run(config, work, task)
    found = run(config, work, task, clip=-6.0, loss=0.9)
    console = Console(record=True, width=200)
    show_certification(found, console)
    text = console.export_text()
    assert "less than 0.900 nats" in text
    assert "points" not in text
