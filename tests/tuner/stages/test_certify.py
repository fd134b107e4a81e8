"""The certify stage on made-up scores: what is fixed before the split is opened, what follows."""

from types import SimpleNamespace

import numpy as np
import pytest

from resprune.budget import Ratio
from resprune.certificate import CertifySplit, Claim
from resprune.errors import StudyError
from resprune.setting import Setting
from tuner.openings import OPENINGS_FILE
from tuner.scoring import metrics
from tuner.search.objectives import Certified
from tuner.stages.certify import certify_policies, recommend
from tuner.stages.claim import ClaimTest
from tuner.study.schema import SplitSpec

N = 300
IMAGES = [str(i) for i in range(N)]
POLICIES = {s.budget: s for s in (Setting.of("resprune", k) for k in (98, 43, 11))}


class MadeUp:
    """A split whose unpruned model is always right; a policy is wrong on as many as is said."""

    images = IMAGES

    def __init__(self, wrong, opened=None):
        self._wrong, self._opened = wrong, opened
        self.asked = []

    def score(self, setting):
        assert self._opened is None or self._opened.is_file()
        if setting.method == "unpruned":
            return np.ones(N)
        self.asked.append(setting.budget.count)
        return (np.arange(N) >= self._wrong[setting.budget.count]).astype(float)


def study(tmp_path, tune, certify):
    """An opened study with these wrong answers by budget on its two splits."""
    splits = {"tune": MadeUp(tune), "certify": MadeUp(certify, tmp_path / OPENINGS_FILE)}
    objective = Certified(loss=0.1)
    described = CertifySplit(name="certify", offset=0, samples=N, images=N, questions_per_image=1)
    return SimpleNamespace(
        claim_test=ClaimTest(Claim(loss=0.1), "exact", None, described),
        study=SimpleNamespace(
            task=SimpleNamespace(certify=SplitSpec(split="certify", samples=N)),
            study=SimpleNamespace(objective=objective),
        ),
        bench=SimpleNamespace(metric=metrics.get("score"), model_key="model"),
        split=splits.__getitem__,
        tokens=lambda setting: setting.budget.count,
        cost=lambda setting: float(setting.budget.count),
        run_dir=tmp_path,
        seed=0,
    )


def counts(certificate, *, certified=False):
    return [t.budget.count for t in (certificate.certified if certified else certificate.order)]


def test_the_order_is_that_of_tune_whatever_certify_says(tmp_path):
    opened = study(tmp_path, {98: 12, 43: 0, 11: 60}, {98: 0, 43: 90, 11: 0})
    certificate = certify_policies(opened, POLICIES, None)
    assert counts(certificate) == [43, 98, 11]
    # the first one fails, so no other is asked for
    assert opened.split("certify").asked == [43]
    assert counts(certificate, certified=True) == []
    budget, reason = recommend(opened, POLICIES, None, 1.0, certificate)
    assert budget == Ratio(ratio=1.0)
    assert "No budget could be certified" in reason


def test_the_cheapest_certified_policy_is_recommended(tmp_path):
    opened = study(tmp_path, {98: 0, 43: 3, 11: 60}, {98: 0, 43: 6, 11: 60})
    certificate = certify_policies(opened, POLICIES, None)
    assert counts(certificate) == [98, 43, 11]
    assert counts(certificate, certified=True) == [98, 43]
    assert recommend(opened, POLICIES, None, 1.0, certificate)[0].count == 43


def test_the_least_cost_is_recommended(tmp_path):
    opened = study(tmp_path, {98: 0, 43: 3, 11: 3}, {98: 0, 43: 6, 11: 6})
    policies = {**POLICIES, (inside := Setting.of("fastv", 11)).budget: inside}
    opened.cost = lambda setting: 57.25 if setting == inside else float(setting.budget.count)
    certificate = certify_policies(opened, policies, None)
    assert counts(certificate, certified=True) == [98, 43, 11]
    budget, reason = recommend(opened, policies, None, 1.0, certificate)
    assert (budget.count, reason) == (43, "43 tokens is the smallest certified budget.")
    opened.cost = lambda setting: 20.5 if setting == inside else float(setting.budget.count)
    budget, reason = recommend(opened, policies, None, 1.0, certificate)
    assert (budget.count, reason[:21]) == (11, "11 tokens (cost 20.5)")


def test_an_opened_split_is_not_opened_for_other_choices(tmp_path):
    wrong = {98: 0, 43: 3, 11: 60}
    first = certify_policies(study(tmp_path, wrong, wrong), POLICIES, None)
    assert certify_policies(study(tmp_path, wrong, wrong), POLICIES, None) == first
    other = {budget: policy.with_options(alpha=1.5) for budget, policy in POLICIES.items()}
    opened = study(tmp_path, wrong, wrong)
    with pytest.raises(
        StudyError, match=r"task\.certify.*with other choices.*--certify-offset 300"
    ):
        certify_policies(opened, other, None)
    assert opened.split("certify").asked == []


def test_nothing_is_tested_where_nothing_is_claimed(tmp_path):
    opened = study(tmp_path, {}, {})
    opened.claim_test = None
    assert certify_policies(opened, POLICIES, None) is None
    assert not (tmp_path / OPENINGS_FILE).exists()
