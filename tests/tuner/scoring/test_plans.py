"""The planner against the one-by-one path of ``attach``, and energy budgets against brute force."""

import numpy as np
import pytest

from resprune import methods, relevance_scores
from resprune.errors import ResPruneError
from resprune.methods.base import Selection
from resprune.options import searchable
from resprune.plan import needs_of, plan_images, signals_of
from resprune.setting import Setting

OPTIONS = {
    "resprune": [
        {"alpha": alpha, "seed_strategy": strategy, "pooling": pooling, "normalization": norm}
        for strategy in ("l2_norm", "relevance", "none", "attention")
        for alpha, pooling, norm in (
            (0.0, "max", "minmax"),
            (0.75, "mean", "shift"),
            (4.0, "pooled", "clip"),
        )
    ],
    "visionzip": [{"contextual": 0.0}, {"contextual": 0.4}],
    "vispruner": [{"important": 0.0}, {"important": 0.7}],
    "holov": [
        {"crops": 4, "sharpness": 2.0},
        {"crops": 24, "sharpness": 0.0, "diversity": 0.5},
    ],
    "scope": [{"exponent": 0.0}, {"exponent": 2.0}],
    "random": [{"seed": 0}, {"seed": 5}],
    "relevance": [{"pooling": "max"}, {"pooling": "mean"}],
    "cdpruner": [{"pooling": "max"}, {"pooling": "mean"}],
}
NESTED = [name for name in methods.names("tokens") if methods.get(name).nested]


def settings_of(name, backbone, budgets):
    """Every options of OPTIONS at every budget; energies where the method takes them."""
    (signal, *_) = backbone.seed_signals
    return [
        Setting.of(name, budget, **{k: signal if v == "attention" else v for k, v in each.items()})
        for each in OPTIONS.get(name, [{}])
        for budget in budgets
        if not isinstance(budget, dict) or name in NESTED
    ]


def by_attach(split, setting):
    """One sample a call, as ``attach`` goes."""
    found = []
    for i, sample in enumerate(split.samples):
        prompt = split.prompt(i) if "nouns" in needs_of(setting) else None
        found += plan_images([split.visual(i)], [prompt], [setting], [sample.id])
    return found


def same(plans, expected):
    for plan, other in zip(plans, expected, strict=True):
        assert plan.kept.tolist() == other.kept.tolist()
        assert plan.key() == other.key()
        assert (plan.features is None) == (other.features is None)
        if plan.features is not None:
            assert np.allclose(plan.features, other.features, atol=1e-6)


def can_serve(backbone, setting):
    return signals_of(needs_of(setting), backbone.seed_signals) <= set(backbone.seed_signals)


@pytest.mark.parametrize("name", methods.names("tokens"))
@pytest.mark.parametrize("kind", ["fixed T", "ragged"])
def test_plans_equal_those_of_attach_sample_by_sample(
    make_split, random_llava, ragged, scenes, ragged_samples, name, kind
):
    if kind == "fixed T":
        backbone, samples = random_llava, scenes
        budgets = [6, 0.11, {"energy": 0.3, "most": 22, "least": 2}]
    else:
        backbone, samples = ragged, ragged_samples
        budgets = [5, 0.5, {"energy": 0.2, "most": 12}]
    split = make_split(backbone, samples)
    settings = settings_of(name, backbone, budgets)
    assert all(can_serve(backbone, setting) for setting in settings)
    together = split.plans(settings)
    for setting, plans in zip(settings, together, strict=True):
        same(plans, by_attach(split, setting))
        assert len(plans) == len(samples)


def test_the_cases_above_name_every_searchable_option():
    for name in methods.names("tokens"):
        cases = OPTIONS.get(name, [{}])
        assert {key for case in cases for key in case} >= set(
            searchable(methods.get(name).options)
        ) - {"normalization", "pooling"}, name


def test_counts_and_ratios_keep_their_share_of_each_image(make_split, ragged, ragged_samples):
    split = make_split(ragged, ragged_samples)
    lengths = [len(split.visual(i).tokens) for i in range(len(split))]
    assert len(set(lengths)) > 2
    for name in ("resprune", "random", "relevance", "visionzip", "pool", "uniform"):
        for ratio in (0.5, 0.2):
            (plans,) = split.plans([Setting.of(name, ratio)])
            wanted = [max(1, round(ratio * length)) for length in lengths]
            assert [len(plan.kept) for plan in plans] == wanted
            assert split.tokens(Setting.of(name, ratio)) == round(sum(wanted) / len(wanted))
        (plans,) = split.plans([Setting.of(name, 12)])
        assert [len(plan.kept) for plan in plans] == [min(12, length) for length in lengths]


def test_a_smaller_budget_is_a_prefix_of_one_order(make_split, random_llava, scenes, monkeypatch):
    """Several budgets and options of a nested method cost one call of its batched path."""
    split = make_split(random_llava, scenes)
    calls = []
    method = methods.get("resprune")
    real = type(method).order_many

    def counted(self, batch, options, k):
        calls.append((len(batch.tokens), len(options), k))
        return real(self, batch, options, k)

    monkeypatch.setattr(type(method), "order_many", counted)
    budgets, alphas = (43, 11, 0.03), (0.0, 1.0)
    settings = [Setting.of("resprune", b, alpha=a) for b in budgets for a in alphas]
    plans = dict(zip(settings, split.plans(settings), strict=True))
    assert calls == [(2, 2, 43)]
    for alpha in alphas:
        large, small, least = (plans[Setting.of("resprune", b, alpha=alpha)] for b in budgets)
        for one, two, three in zip(large, small, least, strict=True):
            assert set(three.kept.tolist()) < set(two.kept.tolist()) < set(one.kept.tolist())


def brute_count(rows, picks, weights, energy, least):
    """Smallest count whose residual share is at most ``energy``: least squares from scratch."""
    total = (weights * (rows**2).sum(axis=1)).sum()
    for k in range(least, len(picks)):
        basis = rows[picks[:k]].T
        left = rows.T - basis @ np.linalg.lstsq(basis, rows.T, rcond=1e-9)[0]
        if (weights * (left**2).sum(axis=0)).sum() / total <= energy:
            return k
    return len(picks)


@pytest.mark.parametrize("name", ["resprune", "divprune", "l2_norm"])
@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_energy_budgets_cut_where_brute_force_does(make_split, ragged, ragged_samples, name, alpha):
    split = make_split(ragged, ragged_samples)
    options = {"alpha": alpha} if name == "resprune" else {}
    whole = Setting.of(name, 14, **options)
    seen = set()
    for energy in (0.02, 0.2, 0.6):
        for least in (1, 3):
            budget = {"energy": energy, "most": 14, "least": least}
            setting = Setting.of(name, budget, **options)
            (plans,) = split.plans([setting])
            for i, plan in enumerate(plans):
                visual, prompt = split.visual(i), split.prompt(i)
                rows = visual.tokens.double().numpy()
                weights = np.ones(len(rows))
                if name == "resprune" and alpha:
                    relevance = relevance_scores(visual.tokens, prompt.embeddings)
                    weights = relevance.double().numpy() ** alpha
                (order,) = plan_images([visual], [prompt], [whole], [""])
                picks = order.order.numpy()
                count = brute_count(rows, picks, weights, energy, min(least, len(rows)))
                assert plan.kept.tolist() == sorted(picks[:count].tolist())
                seen.add(count)
            mean = sum(len(plan.kept) for plan in plans) / len(plans)
            assert split.tokens(setting) == round(mean)
    assert len(seen) > 3


def test_methods_without_nested_orders_refuse_energy_budgets():
    with pytest.raises(ResPruneError, match="'visionzip' has no energy budgets"):
        Setting.of("visionzip", {"energy": 0.1, "most": 9})


@pytest.mark.parametrize(
    ("gives", "message"),
    [([0, 0, 1], "twice or out of range"), ([0, 1, 999], "out of range"), ([0, 1], "exactly")],
)
@pytest.mark.parametrize("name", ["l2_norm", "uniform"])
def test_a_method_that_keeps_something_else_is_refused(
    make_split, random_llava, scenes, monkeypatch, name, gives, message
):
    import torch

    split = make_split(random_llava, scenes)
    monkeypatch.setattr(
        type(methods.get(name)), "select", lambda *_: Selection(torch.tensor(gives))
    )
    with pytest.raises(ResPruneError, match=message):
        split.plans([Setting.of(name, 3)])


def test_workers_change_nothing(make_split, ragged, ragged_samples, tmp_path):
    settings = [Setting.of("resprune", b, alpha=a) for b in (4, 0.5) for a in (0.0, 1.0)]
    one = make_split(ragged, ragged_samples).plans(settings)
    other = make_split(ragged, ragged_samples, workers=3, folder=tmp_path / "b").plans(settings)
    for plans, expected in zip(one, other, strict=True):
        same(plans, expected)


def test_random_plans_are_seeded_and_differ_by_sample(make_split, random_llava, scenes):
    split = make_split(random_llava, scenes)
    one, again, other = split.plans([Setting.of("random", 11, seed=s) for s in (0, 0, 1)])
    kept = [plan.kept.tolist() for plan in one]
    assert kept == [plan.kept.tolist() for plan in again]
    assert kept != [plan.kept.tolist() for plan in other]
    assert len({tuple(row) for row in kept}) == len(split)


def test_relevance_alone_takes_the_most_relevant(make_split, random_llava, scenes):
    split = make_split(random_llava, scenes)
    (plans,) = split.plans([Setting.of("relevance", 6)])
    for i, plan in enumerate(plans):
        relevance = relevance_scores(split.visual(i).tokens, split.prompt(i).embeddings)
        others = np.setdiff1d(np.arange(len(relevance)), plan.kept.numpy())
        assert relevance[plan.kept].min() >= relevance[others].max()
