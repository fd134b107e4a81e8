"""Metrics: what an outcome is worth, and what losing some of it means."""

import numpy as np
import pytest

from resprune.errors import StudyError
from tuner.scoring import metrics
from tuner.scoring.outcomes import Outcome


def never(answer):
    raise AssertionError("this metric does not ask the task")


def test_score_asks_the_task():
    metric = metrics.get("score")
    assert metric.score(Outcome("Red", -0.1), lambda answer: float(answer == "Red"), None) == 1.0
    assert metric.needs_gold
    assert not metric.compares


def test_log_likelihood_reads_it():
    metric = metrics.get("log_likelihood")
    assert metric.score(Outcome(None, -2.5), never, None) == -2.5
    assert (metric.kind, metric.needs_gold) == ("log_likelihood", True)


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [("Red.", " red", 1.0), ("dark red", "red", 0.0), ("", "", 1.0), ("", "red", 0.0)],
)
def test_fidelity_compares_normalised_answers(answer, reference, score):
    metric = metrics.get("fidelity")
    assert metric.score(Outcome(answer, None), never, reference) == score
    assert metric.compares
    assert not metric.needs_gold


def test_scores_lose_shares_and_log_likelihoods_lose_nats():
    assert metrics.get("score").floor(0.9, 0.1) == pytest.approx(0.81)
    assert metrics.get("fidelity").floor(1.0, 0.02) == pytest.approx(0.98)
    assert metrics.get("log_likelihood").floor(-1.0, 0.1) == pytest.approx(-1.1)


def test_losses_are_0_for_the_best_and_log_likelihoods_are_cut_where_they_only_say_wrong():
    assert metrics.get("score").losses(np.array([1.0, 0.25])).tolist() == [0.0, 0.75]
    found = metrics.get("log_likelihood").losses(np.array([0.0, -2.0, -50.0]))
    assert found.tolist() == [0.0, 2.0, 6.0]
    # a perfect log-likelihood of every sample does not make it a share
    assert metrics.get("log_likelihood").losses(np.zeros(3)).tolist() == [0.0] * 3


def test_names_and_near_names():
    assert set(metrics.names()) == {"score", "log_likelihood", "fidelity", "kl"}
    assert all(metrics.get(name).name == name and metrics.get(name).meaning
               for name in metrics.names())  # fmt: skip
    with pytest.raises(StudyError, match=r"unknown metric 'fidelty'. Did you mean 'fidelity'"):
        metrics.get("fidelty")
