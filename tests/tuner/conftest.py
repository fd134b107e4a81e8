"""A finished study made up for tests: its numbers follow a plausible law, its images are scenes."""

import base64
import io
import json
import random

import pytest

from resprune.alpha import FEATURE_NAMES
from resprune.setting import PREDICTOR_FILE, Adaptive, Setting, unpruned
from studies.nano.scenes import generate_scene
from tuner.results.schema import Results

BUDGETS = (22, 11, 6)
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 2.0, 4.0)
UNPRUNED = 0.932
# accuracy by budget over ALPHAS
LAW = {
    22: (0.813, 0.821, 0.813, 0.802, 0.793, 0.748, 0.686),
    11: (0.760, 0.770, 0.762, 0.747, 0.732, 0.679, 0.633),
    6: (0.573, 0.630, 0.645, 0.651, 0.643, 0.615, 0.589),
}
RANDOM = {22: 0.478, 11: 0.389, 6: 0.325}
ADAPTIVE_GAIN = {22: 0.002, 11: 0.022, 6: 0.031}
GROUPS = {"color": 0.06, "count": -0.03, "digit": 0.04, "digit_by_color": -0.09, "exists": 0.05}


def interval(mean, half):
    return {"mean": mean, "low": mean - half, "high": mean + half}


def score(budget, alpha, strategy):
    values = LAW[budget]
    place = min(range(len(ALPHAS)), key=lambda i: abs(ALPHAS[i] - alpha))
    return values[place] - (0.013 if strategy == "l2_norm" else 0.0)


def example(seed):
    rng = random.Random(seed)
    scene = generate_scene(seed)
    file = io.BytesIO()
    scene.image.save(file, "PNG")
    thing = scene.objects[0]
    near = [(thing.row + dr) * 14 + thing.column + dc for dr in (-1, 0, 1) for dc in (-1, 0, 1)]
    panels = []
    for kind, alpha, first in (("tuned", 0.25, 3), ("adaptive", 2.0, 8)):
        kept = sorted({*near[:first], *rng.sample(range(196), 11)})[:11]
        boxes = [(t % 14 * 8.0, t // 14 * 8.0, t % 14 * 8 + 8.0, t // 14 * 8 + 8.0) for t in kept]
        prediction = thing.color if first == 8 else "gray"
        panels.append(
            {"kind": kind, "setting": dump(ours(11, alpha)), "kept": kept, "boxes": boxes}
            | {"prediction": prediction}
        )
    return {
        "question": f"What color is the {thing.shape}?",
        "answer": thing.color,
        "nouns": ["color", thing.shape],
        "image_png_base64": base64.b64encode(file.getvalue()).decode(),
        "panels": panels,
    }


def ours(budget, alpha, seed_strategy="cls_attention"):
    return Setting.of("resprune", budget, alpha=alpha, seed_strategy=seed_strategy)


def by_prompt(budget, fallback):
    arms = tuple(ours(budget, alpha) for alpha in ALPHAS)
    return Adaptive(arms=arms, fallback=ALPHAS.index(fallback))


def dump(policy):
    return policy.model_dump(mode="json")


def comparison(mean, half, against, verdict=None):
    said = "within noise" if abs(mean) <= half else "better" if mean > 0 else "worse"
    return interval(mean, half) | {"against": against, "verdict": verdict or said}


def report_row(kind, policy, mean, strongest=None):
    groups = {g: interval(min(1.0, mean + shift), 0.03) for g, shift in GROUPS.items()}
    row = {"kind": kind, "policy": dump(policy), "score": interval(mean, 0.014)}
    tokens = None if kind == "unpruned" else policy.budget.count
    row |= {"tokens": tokens, "cost": tokens, "by_group": groups}
    if kind != "unpruned":
        row["versus_unpruned"] = comparison(mean - UNPRUNED, 0.012, "all tokens")
    if kind in ("rival", "tuned", "adaptive"):
        row["versus_strongest"] = comparison(mean - strongest, 0.008, "l2_norm")
    return row


def baseline(kind, policy, mean, half):
    tokens = None if kind == "unpruned" else policy.budget.count
    row = {"kind": kind, "policy": dump(policy), "score": interval(mean, half)}
    return row | {"tokens": tokens, "cost": tokens}


def between(median):
    return {"median": median, "low": 0.9 * median, "high": 1.1 * median}


def measured(policy, kept, speed):
    """What a policy takes on a model whose prefill is half its first token."""
    first = 40.0 / speed
    parts = {"vision_ms": 8.0, "prefill_ms": first / 2, "first_token_ms": first, "decode_ms": 4.0}
    row = {name: between(ms) for name, ms in parts.items()}
    pruned = kept < 196
    row |= {
        name: between(ms * pruned)
        for name, ms in (("read_ms", 1.0), ("select_ms", 2.0), ("prepare_ms", 0.5))
    }
    if pruned:
        row["first_token"] = {"ratio": speed, "low": 0.94 * speed, "high": 1.06 * speed}
        row["whole_call"] = row["first_token"]
        row["break_even"] = {"visual_tokens": 293, "parameters": 1_790_000}
    return row | {
        "policy": policy,
        "kept": kept,
        "rows_per_layer": [40 + kept] * 4,
        "tokens_per_second": {"1": between(100 * speed)},
        "prefill_flops": 1_500_000 * (40 + kept),
        "kv_bytes": 4096 * (40 + kept),
        "peak_bytes": 20_000 * (40 + kept),
    }


def efficiency(chosen):
    """The largest budget is faster, the next slower, the least cannot be told apart."""
    rows = [measured(dump(unpruned()), 196, 1.0)]
    for policy, speed in zip(chosen, (1.5, 0.8, 1.01), strict=True):
        rows.append(measured(policy["policy"], policy["tokens"], speed))
    return {
        "model": "nano-llava",
        "device": "x86_64 CPU, threads: 1",
        "dtype": "float32",
        "layers": 4,
        "parameters": 655_360,
        "measured_layers": [4],
        "prompts": 8,
        "prompt_source": "the tune split",
        "repeats": 9,
        "new_tokens": 4,
        "seed": 0,
        "rows": rows,
    }


def synthetic_results():
    """Return the data of a results.json: at 22 tokens a setting is chosen, else arms."""
    rng = random.Random(0)
    trials, curves, chosen, report, adaptive = [], [], [], [], []
    for number in range(60):
        budget = rng.choice(BUDGETS)
        strategy = rng.choice(["cls_attention", "l2_norm"])
        alpha = round(rng.uniform(0, 4), 2)
        value = score(budget, alpha, strategy) + rng.gauss(0, 0.006)
        trials.append(
            {"number": number, "setting": dump(ours(budget, alpha, strategy)), "tokens": budget}
            | {"cost": float(budget), "score": value, "seconds": 1.5}
        )
    for number in range(15):
        budget = BUDGETS[number % 3]
        other = Setting.of("visionzip", budget, contextual=round(rng.uniform(0, 0.5), 2))
        for setting, loss in ((other, 0.07), (Setting.of("divprune", budget), 0.05)):
            value = max(LAW[budget]) - loss + rng.gauss(0, 0.006)
            trials.append(
                {"number": number, "setting": dump(setting), "tokens": budget}
                | {"cost": float(budget), "score": value, "seconds": 1.5}
            )
    baselines = [baseline("unpruned", unpruned(), UNPRUNED, 0.02)]
    report.append(report_row("unpruned", unpruned(), UNPRUNED))
    for budget in BUDGETS:
        paper = score(budget, 0.75, "cls_attention")
        best = max(LAW[budget])
        fixed = ALPHAS[LAW[budget].index(best)]
        gain = ADAPTIVE_GAIN[budget]
        baselines += [
            baseline("random", Setting.of("random", budget), RANDOM[budget], 0.03),
            baseline("paper-default", ours(budget, 0.75), paper, 0.03),
        ]
        curves += [
            {"setting": dump(ours(budget, 0.5, strategy)), "option": "alpha", "tokens": budget}
            | {"split": "fit", "values": list(ALPHAS), "standard_errors": [0.008] * len(ALPHAS)}
            | {"scores": [score(budget, a, strategy) for a in ALPHAS]}
            for strategy in ("cls_attention", "l2_norm")
        ]
        arms = by_prompt(budget, fixed)
        is_adaptive = gain > 0.01
        chosen.append(
            {"policy": dump(arms if is_adaptive else ours(budget, fixed)), "tokens": budget}
            | {
                "cost": float(budget),
                "setting": dump(ours(budget, fixed)),
                "tune_score": interval(best + 0.01, 0.025),
            }
        )
        for kind, policy, mean in (
            ("random", Setting.of("random", budget), RANDOM[budget]),
            ("baseline", Setting.of("l2_norm", budget), best - 0.02),
            ("baseline", Setting.of("cls_attention", budget), best - 0.03),
            ("baseline", Setting.of("divprune", budget), best - 0.05),
            ("baseline", Setting.of("pool", budget), best - 0.11),
            ("baseline", Setting.of("relevance", budget), best - 0.18),
            ("alpha-0", ours(budget, 0.0), LAW[budget][0]),
            ("paper-default", ours(budget, 0.75), paper),
            ("rival", Setting.of("visionzip", budget, contextual=0.2), best - 0.07),
            ("rival", Setting.of("scope", budget), best - 0.04),
            ("tuned", ours(budget, fixed), best),
            *([("adaptive", arms, best + gain)] if is_adaptive else []),
        ):
            report.append(report_row(kind, policy, mean, best - 0.02))
        if not is_adaptive:
            continue
        adaptive.append(
            {
                "policy": dump(arms),
                "tokens": budget,
                "best_fixed": interval(best, 0.014),
                "adaptive": interval(best + gain, 0.013),
                "by_group_arm": {"color": 6, "count": 1, "digit": 5, "exists": 2},
                "best_per_group": interval(best + gain * 1.2, 0.013),
                "oracle": interval(best + 0.16, 0.011),
                "versus_best_fixed": comparison(gain - 0.001, 0.007, "the tuned setting"),
                "adaptive_minus_fixed": comparison(gain, 0.007, "the best fixed arm"),
                "group_minus_fixed": comparison(gain * 1.2, 0.006, "the best fixed arm"),
                "oracle_minus_fixed": interval(0.16, 0.009),
                "strength": 0.9,
                "outside": 12,
                "chosen": [40 + 90 * i % 170 for i in range(len(ALPHAS))],
            }
        )
    return {
        "schema_version": 4,
        "study": {
            "study": {
                "name": "nano-llava",
                "seed": 0,
                "trials": 90,
                "objective": {"kind": "pareto", "tolerance": 0.02},
            },
            "backbone": {"model": "nano-llava", "dtype": "auto"},
            "task": {
                "name": "nano-scenes",
                "metric": "score",
                "tune": {"split": "tune", "samples": 300, "offset": 0},
                "fit": {"split": "fit", "samples": 2000, "offset": 0},
                "report": {"split": "report", "samples": 1000, "offset": 0},
            },
            "search": {
                "method": ["resprune", "divprune", "visionzip"],
                "budget": list(BUDGETS),
                "resprune": {"alpha": {"low": 0.0, "high": 4.0, "step": 0.05}},
            },
        },
        "environment": {"resprune": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "model": {
            "id": "nano-llava",
            "family": "llava",
            "revision": None,
            "visual_tokens": 196,
            "width": 128,
        },
        "noun_pipeline": {"name": "resprune_en_nouns", "version": "0.1.0"},
        "splits": {
            "tune": {"name": "tune", "samples": 300, "images": 38},
            "fit": {"name": "fit", "samples": 2000, "images": 250},
            "report": {"name": "report", "samples": 1000, "images": 125},
        },
        "groups": list(GROUPS),
        "trials": trials,
        "baselines": baselines,
        "importances": {
            "resprune": ["budget", "alpha", "seed_strategy"],
            "visionzip": ["budget", "contextual"],
            "divprune": [],
        },
        "curves": curves,
        "chosen": chosen,
        "recommended": {"count": 11},
        "report": report,
        "adaptive": adaptive,
        "feature_weights": [
            {"name": "noun_count", "weight": 0.31},
            {"name": "attribute_share", "weight": 0.27},
            {"name": "relevance_peak", "weight": 0.22},
            {"name": "prompt_length", "weight": 0.06},
        ],
        "efficiency": efficiency(chosen),
        "examples": [example(seed) for seed in (3, 4, 5)],
        "cost": {
            "seconds": {"encode": 12.1, "trials": 61.3, "alpha fit": 55.0, "report": 31.9},
            "encoder_calls": 413,
            "prefills": 21_340,
            "memo_hits": 48_211,
            "trials": 90,
        },
        "notes": ["The report split is the first 1,000 questions of it."],
    }


def synthetic_predictor():
    """Return the data of an alpha_predictor.json that gives every prompt the fixed alpha."""
    budgets = [
        {"budget": b, "mean_losses": [1 - s for s in LAW[b]], "strength": 0.0, "model": None}
        for b in (11, 6)
    ]
    return {
        "schema_version": 1,
        "features": list(FEATURE_NAMES[:2]),
        "center": [0.0, 0.0],
        "scale": [1.0, 1.0],
        "low": [0.0, 0.0],
        "high": [1.0, 1.0],
        "alphas": list(ALPHAS),
        "budgets": budgets,
    }


@pytest.fixture
def results_data():
    """A fresh dict to change."""
    return synthetic_results()


@pytest.fixture
def results(results_data):
    return Results.model_validate(results_data)


@pytest.fixture
def run_dir(tmp_path, results):
    """A run folder as a study leaves it, as far as export and report read it."""
    folder = tmp_path / "runs" / "nano-llava"
    folder.mkdir(parents=True)
    results.save(folder)
    (folder / PREDICTOR_FILE).write_text(json.dumps(synthetic_predictor()))
    return folder


@pytest.fixture(scope="session")
def nano_random():
    """(model, processor): nano-llava's architecture with random weights."""
    from studies.nano.model import build_model
    from studies.nano.processor import build_processor

    return build_model(seed=0).eval(), build_processor()
