"""One table with a policy of each kind, told apart by its budget, so that one engine serves all."""

from __future__ import annotations

from typing import Any

import numpy as np

from resprune import PruningConfig, Setting, methods
from resprune.alpha import FEATURE_NAMES, AlphaPredictor, question_form

_ALPHAS = (0.0, 0.75, 2.0)
_FEATURES = (
    "noun_count",
    "log_words",
    "rank_mean",
    "norm_mean",
    "map_gap",
    "map_spread",
    "map_max",
)


def table(signal: str, positions: Any, adaptive: Any) -> dict[str, Any]:
    """Policies by what they test."""
    own: dict[str, Any] = {"positions": positions}
    kinds: dict[str, Any] = {
        "alpha 0": Setting.of("resprune", 90, alpha=0.0, **own),
        "l2_norm seed": Setting.of("resprune", 0.5, alpha=0.75, seed_strategy="l2_norm", **own),
        "signal": Setting.of("resprune", 43, alpha=0.75, seed_strategy=signal, **own),
        "relevance seed": Setting.of("resprune", 42, alpha=1.0, seed_strategy="relevance", **own),
        "no seed": Setting.of("resprune", 22, alpha=0.5, seed_strategy="none", **own),
        "pooled": Setting.of("resprune", 21, alpha=2.0, pooling="pooled", **own),
        "adaptive": adaptive,
        "divprune": Setting.of("divprune", 23, **own),
        "visionzip": Setting.of("visionzip", 44, **own),
        "scope": Setting.of("scope", 24, **own),
        "cdpruner": Setting.of("cdpruner", 25, **own),
        "random": Setting.of("random", 26, **own),
        "pool": Setting.of("pool", 0.25, **own),
        "all": Setting.of("unpruned", 1.0),
    }
    others = [name for name in methods.names("tokens") if name not in kinds and name != "resprune"]
    return kinds | {name: Setting.of(name, 27 + i, **own) for i, name in enumerate(others)}


def predictor(budget: int, forms: list[str], seed: int = 0) -> AlphaPredictor:
    """A predictor whose choice follows the prompt and the image; it is fitted to nothing."""
    draw = np.random.default_rng(seed)
    width = len(_FEATURES)
    assert set(_FEATURES) <= set(FEATURE_NAMES)
    arms = [{"alpha": alpha} for alpha in _ALPHAS]
    return AlphaPredictor.from_dict(
        {
            "schema_version": 3,
            "features": list(_FEATURES),
            "center": [2.0, 2.0, 0.5, 1.0, 0.1, 0.5, 0.2],
            "scale": [1.0, 0.3, 0.2, 0.1, 0.05, 0.1, 0.1],
            "low": [-100.0] * width,
            "high": [100.0] * width,
            "arms": arms,
            "forms": forms,
            "budgets": [
                {
                    "budget": {"count": budget},
                    "mean_losses": [0.3, 0.2, 0.3],
                    "strength": 1.0,
                    "model": {
                        "kind": "linear",
                        "pairs": [],
                        "weights": draw.normal(0, 0.2, (width, len(arms))).tolist(),
                        "bias": [0.0] * len(arms),
                    },
                }
            ],
        }
    )


def form_digests(questions: list[str], skip: int) -> list[str]:
    """Digests of the forms of questions, less every ``skip``-th form."""
    from resprune.alpha import form_digest
    from resprune.nouns import NounExtractor

    extractor = NounExtractor()
    forms = dict.fromkeys(question_form(text, extractor.content_tags(text)) for text in questions)
    return [form_digest(form) for place, form in enumerate(forms) if place % skip]


def config(family: str, signal: str, positions: Any, questions: list[str]) -> PruningConfig:
    """A config of every kind of policy; ``nouns`` by the embedded pipeline."""
    budget = 41
    arms = [Setting.of("resprune", budget, alpha=alpha, positions=positions) for alpha in _ALPHAS]
    adaptive = {"arms": arms, "fallback": 1, "predictor": "alpha_predictor.json"}
    policies = list(table(signal, positions, adaptive).values())
    return PruningConfig.from_dict(
        {
            "backbone": {"family": family},
            "nouns": {"pipeline": "resprune_en_nouns"},
            "default": {"count": 43},
            "table": policies,
        },
        predictor=predictor(budget, form_digests(questions, 3)),
    )
