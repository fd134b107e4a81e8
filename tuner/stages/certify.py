"""The certify split: what was chosen is tested, in an order fixed before the split is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from resprune.budget import Budget
from resprune.certificate import Certificate, digest_of, policy_digest
from resprune.setting import Adaptive, Setting, fixed, unpruned
from tuner import certificate
from tuner.openings import Openings
from tuner.search.objectives import Tuned
from tuner.stages.adaptive import Fitted
from tuner.stages.opened import OpenedStudy
from tuner.stages.policies import policy_scores


def certify_policies(
    opened: OpenedStudy,
    policies: Mapping[Budget, Setting | Adaptive],
    fitted: Fitted | None,
) -> Certificate | None:
    """Test what was chosen, a policy a budget.

    The order and everything that was chosen are fixed before the split is opened, and the opening
    is recorded.

    Args:
        opened: The study.
        policies: The policy of each budget that would be deployed.
        fitted: The predictor of adaptive ones.

    Returns:
        The certificate; None where the study claims nothing.

    Raises:
        StudyError: The split was opened before with other choices.
    """
    asked, spec = opened.claim_test, opened.study.task.certify
    if asked is None or spec is None:
        return None
    predictor = None if fitted is None else fitted.fit.predictor
    tune, claim, clip = opened.split("tune"), asked.claim, asked.clip
    entries = [
        certificate.Entry(budget, opened.tokens(fixed(policy)))
        for budget, policy in policies.items()
    ]
    tuned = [policy_scores(tune, policies[entry.budget], predictor) for entry in entries]
    places = certificate.order_by_promise(
        entries, tuned, tune.score(unpruned()), tune.images, claim, clip
    )
    entries = [entries[place] for place in places]
    choices = choices_digest(opened, [policies[entry.budget] for entry in entries], fitted)
    attempt = Openings(opened.run_dir).open("certify", spec, choices)
    split = opened.split("certify")
    tested = certificate.certify(
        entries,
        lambda entry: policy_scores(split, policies[entry.budget], predictor),
        certificate.Split(
            split.score(unpruned()),
            split.images,
            certificate.drawn_order(split.images, opened.seed),
            asked.split.questions_per_image,
        ),
        claim,
        asked.test,
        clip,
    )
    return Certificate.sealed(
        claim=claim,
        test=asked.test,
        metric=opened.bench.metric.name,
        clip=clip,
        split=asked.split,
        attempt=attempt,
        order=tuple(
            each.model_copy(update={"policy": policy_digest(policies[each.budget], predictor)})
            for each in tested
        ),
        choices=choices,
    )


def choices_digest(
    opened: OpenedStudy, policies: Sequence[Setting | Adaptive], fitted: Fitted | None
) -> str:
    """Return the digest of everything that was chosen, and of what is claimed of it.

    Args:
        opened: The study.
        policies: What was chosen, in the order of testing where there is one.
        fitted: The predictor of adaptive policies.
    """
    objective = opened.study.study.objective
    return digest_of(
        {
            "policies": [policy.model_dump(mode="json") for policy in policies],
            "predictor": None if fitted is None else fitted.fit.predictor.to_dict(),
            "objective": objective.model_dump(mode="json"),
            "metric": opened.bench.metric.name,
            "model": opened.bench.model_key,
        }
    )


def recommend(
    opened: OpenedStudy,
    policies: Mapping[Budget, Setting | Adaptive],
    fitted: Fitted | None,
    unpruned_score: float,
    certificate: Certificate | None,
) -> tuple[Budget, str]:
    """Recommend one of the budgets, or all tokens, and say why."""
    predictor = None if fitted is None else fitted.fit.predictor
    tune = opened.split("tune")
    means = {b: float(policy_scores(tune, p, predictor).mean()) for b, p in policies.items()}
    costs = {budget: opened.cost(fixed(policy)) for budget, policy in policies.items()}
    passed = {t.budget for t in certificate.certified} if certificate is not None else set()
    # of budgets that cost the same on average the better one stands for both
    ranked = sorted(means, key=lambda budget: (budget in passed, means[budget]))
    by_cost = {costs[budget]: budget for budget in ranked}
    names = {
        cost: f"{opened.tokens(fixed(policies[b]))} tokens (cost {cost:g})"
        for cost, b in by_cost.items()
        if fixed(policies[b]).inside is not None
    }
    chosen, reason = opened.study.study.objective.recommend(
        Tuned(
            {cost: means[budget] for cost, budget in by_cost.items()},
            unpruned_score,
            opened.bench.metric,
            {costs[budget] for budget in passed},
            names,
        )
    )
    return (unpruned().budget if chosen is None else by_cost[chosen]), reason
