"""The command, small: what it computes, what it leaves closed, what it writes."""

import io
import json
import re

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import spearmanr

from resprune.errors import StudyError
from resprune.setting import Setting
from tuner.openings import OPENINGS_FILE
from tuner.output.surrogate import PAGE_FILE, show_surrogate, verdict
from tuner.results.schema import Interval
from tuner.results.surrogate import SURROGATE_FILE, Correlation, Surrogate
from tuner.stages.opened import OpenedStudy
from tuner.study import study_from_dict
from tuner.surrogate.measures import NAMES
from tuner.surrogate.plans import spread
from tuner.surrogate.run import run_surrogate

PLANS = 8


def make(**tune):
    return study_from_dict(
        {
            "study": {"name": "surrogate", "trials": 2, "objective": {"kind": "pareto"}},
            "backbone": {"model": "nano-llava", "device": "cpu"},
            "task": {
                "name": "nano-scenes",
                "tune": {"split": "tune", "samples": 96, **tune},
                "report": {"split": "report", "samples": 8},
            },
            "search": {"budget": [43, 6]},
        }
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return run_surrogate(make(), runs, PLANS), runs


def test_correlations_are_those_of_the_plans_it_says(found, tmp_path):
    """Computed anew from plans, least squares and answers, with scipy."""
    with OpenedStudy(make(), tmp_path) as opened:
        split = opened.split("tune")
        settings = spread(opened, opened.budgets()[1], PLANS, opened.seed)
        assert len(set(settings)) == PLANS
        assert opened.paper(opened.budgets()[1]) in settings
        plans = split.plans(settings)
        likelihoods = split.log_likelihoods(plans)
        rhos = []
        for i in range(len(split)):
            tokens = split.visual(i).tokens.double().numpy()
            keys = [tuple(row[i].kept.tolist()) for row in plans]
            own = [keys.index(key) for key in dict.fromkeys(keys)]
            left = []
            for p in own:
                basis = tokens[list(keys[p])].T
                fit = basis @ np.linalg.lstsq(basis, tokens.T, rcond=None)[0]
                left.append(-((tokens.T - fit) ** 2).sum() / (tokens**2).sum())
            rhos.append(spearmanr(left, likelihoods[own, i])[0])
        right = [
            [text == sample.answers[0] for text, sample in zip(row, split.samples, strict=True)]
            for row in split.answers(plans)
        ]
    row = found[0].of("residual", "log-likelihood", "6")
    assert row.within.mean == pytest.approx(np.nanmean(rhos), abs=1e-3)
    assert row.samples == int(np.isfinite(rhos).sum())
    assert found[0].score[6] == pytest.approx(np.mean(right))
    assert found[0].budgets == [43, 6]
    # few tokens: answers differ between plans, and so does what they are worth
    assert found[0].score[6] < found[0].score[43]


def test_every_measure_stands_against_both_outcomes(found):
    for group in ("all budgets", "43", "6", "resprune, 43", "resprune, 6"):
        rows = [row for row in found[0].rows if row.plans == group]
        names = set(NAMES) if group == "all budgets" else set(NAMES) - {"count"}
        assert {row.measure for row in rows} == names
        assert len(rows) == 2 * len(names)
    kept = found[0].of("count", "correctness", "all budgets")
    assert kept.within.low > 0  # more tokens, better answers
    assert found[0].of("residual", "correctness", "all budgets").baseline is not None
    assert kept.difference is None


def test_the_report_split_stays_closed_and_a_second_run_is_free(found):
    results, runs = found
    assert not (runs / "surrogate" / OPENINGS_FILE).exists()
    again = run_surrogate(make(), runs, PLANS)
    assert again.prefills == 0 < results.prefills
    assert again.rows == results.rows


def test_the_files_say_what_was_found_and_load_nothing(found):
    results, runs = found
    folder = runs / "surrogate"
    kept = Surrogate.model_validate(json.loads((folder / SURROGATE_FILE).read_text()))
    assert kept.rows == results.rows
    page = (folder / PAGE_FILE).read_text()
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", markup)
    assert page.count('class="plot"') == 2
    console = Console(file=io.StringIO(), width=150)
    show_surrogate(results, folder, console)
    said = " ".join(console.file.getvalue().split())
    for outcome in ("log-likelihood", "correctness"):
        for plans in ("all budgets", "43", "6"):
            assert verdict(results, outcome, plans) in said
            assert verdict(results, outcome, plans).split("(")[0].strip() in page


@pytest.mark.parametrize(
    ("within", "versus", "said"),
    [
        (
            (0.3, 0.2, 0.4),
            (0.1, 0.05, 0.2),
            "goes with a better answer (correctness, mean rho 0.30 "
            "(0.20 to 0.40)), more than own energy kept does by 0.10 (0.05 to 0.20).",
        ),
        ((0.3, 0.2, 0.4), (-0.1, -0.2, -0.05), "own energy kept alone tells more, by 0.10."),
        ((-0.3, -0.4, -0.2), (0.0, -0.1, 0.1), "goes with a worse answer"),
        ((0.0, -0.1, 0.1), (0.0, -0.1, 0.1), "says nothing that could be told from chance"),
    ],
)
def test_words_follow_the_intervals(found, within, versus, said):
    def one(values):
        return Interval(mean=values[0], low=values[1], high=values[2])

    row = Correlation(
        measure="residual",
        outcome="correctness",
        plans="6",
        within=one(within),
        samples=3,
        overall=None,
        difference=one(versus),
        baseline="norm",
    )
    results = found[0].model_copy(update={"rows": [row]})
    assert said in verdict(results, "correctness", "6")


def test_too_little_is_refused(tmp_path):
    with pytest.raises(StudyError, match="--plans is 3; give 4 or more"):
        run_surrogate(make(), tmp_path, 3)
    with pytest.raises(StudyError, match="images say nothing about others; give 10 or more"):
        run_surrogate(make(samples=16), tmp_path, 4)
    study = make()
    budget = Setting.of("resprune", {"energy": 0.3, "most": 9, "least": 2}).budget
    search = study.search.model_copy(update={"budget": (budget,)})
    with pytest.raises(StudyError, match="an energy budget keeps what it measures"):
        run_surrogate(study.model_copy(update={"search": search}), tmp_path, 4)
