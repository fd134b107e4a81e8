"""Compare a study's results before and after the one way to prune: every number, every choice.

    python -m benchmarks.same_results OLD_RUN_DIR NEW_RUN_DIR

Reads ``results.json`` and ``config/`` of schema 1 and of schema 2, brings both into one form, and
prints what differs; exit code 1 if anything does. Times, memo hits and the fingerprint (which
hashed a schema number) are left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Plain = Any


def old_form(run: Path) -> dict[str, Plain]:
    """Bring schema 1 into the common form."""
    data = _read(run / "results.json")
    kinds = {"budget": "tokens"}

    def setting(row: Plain) -> Plain:
        return [row.get("alpha"), row.get("seed_strategy")]

    config = _read(run / "config" / "pruning_config.json")
    predictor = run / "config" / "alpha_predictor.json"
    return {
        "trials": [
            [t["number"], t["params"]["alpha"], t["params"]["seed_strategy"], t["budget"], t["score"]]
            for t in data["trials"]
        ],
        "baselines": [[b["name"], b["budget"], b["score"]] for b in data["baselines"]],
        "importances": data["importances"],
        "curves": [
            [c["budget"], c["seed_strategy"], c["split"], c["alphas"], c["scores"],
             c["standard_errors"]]
            for c in data["curves"]
        ],  # fmt: skip
        "chosen": [
            [c["budget"], c["alpha"] == "adaptive", c["fixed_alpha"], c["seed_strategy"],
             c["pooling"], c["normalization"], c["positions"], c["tune_score"]]
            for c in data["chosen"]
        ],  # fmt: skip
        "recommended": data["recommended_budget"],
        "report": [
            [r["name"], r["budget"], r["score"], r["versus_unpruned"], r["versus_paper"],
             r["by_group"], None if r["name"] in ("unpruned", "random", "relevance-only",
                                                  "adaptive") else setting(r)]
            for r in data["report"]
        ],  # fmt: skip
        "adaptive": [
            [a["budget"], a["best_fixed_alpha"], a["by_group_alpha"], a["strength"],
             {k: v for k, v in a["alpha_histogram"].items() if v},
             *(a[k] for k in _ADAPTIVE)]
            for a in data["adaptive"]
        ],  # fmt: skip
        "feature_weights": data["feature_weights"],
        "examples": [
            [e["question"], e["answer"], e["nouns"], e["image_png_base64"],
             [[p["label"], p["alpha"], p["kept"], p["boxes"], p["prediction"]]
              for p in e["panels"]]]
            for e in data["examples"]
        ],  # fmt: skip
        "splits": data["splits"],
        "model": data["model"],
        "cost": [data["cost"][k] for k in ("encoder_calls", "prefills", "trials")],
        "environment": _environment(data),
        "config": [
            [config["default_budget"], config["backbone"], config["nouns"]],
            [
                [e["budget"], e["alpha"] if e["alpha"] != "adaptive" else "by prompt",
                 e["seed_strategy"], config["pooling"], config["normalization"], config["eps"],
                 config["positions"]]
                for e in config["budgets"]
            ],
        ],  # fmt: skip
        "predictor": _predictor(_read(predictor), "budget") if predictor.exists() else None,
        kinds["budget"]: sorted({t["budget"] for t in data["trials"]}),
    }


_ADAPTIVE = ("best_fixed", "adaptive", "best_per_group", "oracle", "adaptive_minus_fixed",
             "group_minus_fixed", "oracle_minus_fixed")  # fmt: skip


def new_form(run: Path) -> dict[str, Plain]:
    """Bring schema 2 into the common form."""
    data = _read(run / "results.json")

    def options(row: Plain) -> Plain:
        return row["options"]

    def setting(policy: Plain) -> Plain:
        return [options(policy).get("alpha"), options(policy).get("seed_strategy")]

    config = _read(run / "config" / "pruning_config.json")
    predictor = run / "config" / "alpha_predictor.json"
    found: dict[str, Plain] = {
        "trials": [
            [t["number"], *setting(t["setting"]), t["tokens"], t["score"]] for t in data["trials"]
        ],
        "baselines": [[b["kind"], b["tokens"], b["score"]] for b in data["baselines"]],
        "importances": data["importances"]["resprune"],
        "curves": [
            [c["tokens"], options(c["setting"])["seed_strategy"], c["split"], c["values"],
             c["scores"], c["standard_errors"]]
            for c in data["curves"]
        ],  # fmt: skip
        "chosen": [
            [c["tokens"], "arms" in c["policy"], *setting(c["setting"]),
             options(c["setting"])["relevance"]["pooling"],
             options(c["setting"])["relevance"]["normalization"], c["setting"]["positions"],
             c["tune_score"]]
            for c in data["chosen"]
        ],  # fmt: skip
        "recommended": next(
            c["tokens"] for c in data["chosen"] if c["setting"]["budget"] == data["recommended"]
        ),
        "report": [
            [r["kind"], r["tokens"], r["score"], r["versus_unpruned"], r["versus_paper"],
             r["by_group"],
             None if r["kind"] in ("unpruned", "random", "relevance-only", "adaptive")
             else setting(r["policy"])]
            for r in data["report"]
        ],  # fmt: skip
        "adaptive": [
            [a["tokens"], _alpha(a, a["policy"]["fallback"]),
             {g: _alpha(a, arm) for g, arm in a["by_group_arm"].items()}, a["strength"],
             {f"{_alpha(a, i):g}": n for i, n in enumerate(a["chosen"]) if n},
             *(a[k] for k in _ADAPTIVE)]
            for a in data["adaptive"]
        ],  # fmt: skip
        "feature_weights": data["feature_weights"],
        "examples": [
            [e["question"], e["answer"], e["nouns"], e["image_png_base64"],
             [[p["kind"], options(p["setting"])["alpha"], p["kept"], p["boxes"], p["prediction"]]
              for p in e["panels"]]]
            for e in data["examples"]
        ],  # fmt: skip
        "splits": data["splits"],
        "model": data["model"],
        "cost": [data["cost"][k] for k in ("encoder_calls", "prefills", "trials")],
        "environment": _environment(data),
        "config": [
            [_number(config["default"]), config["backbone"], config["nouns"]],
            [_row(policy) for policy in config["table"]],
        ],
        "predictor": _predictor(_read(predictor), "count") if predictor.exists() else None,
        "tokens": sorted({t["tokens"] for t in data["trials"]}),
    }
    return found


def _row(policy: Plain) -> Plain:
    one = policy["arms"][policy["fallback"]] if "arms" in policy else policy
    relevance = one["options"]["relevance"]
    return [
        _number(one["budget"]),
        "by prompt" if "arms" in policy else one["options"]["alpha"],
        one["options"]["seed_strategy"],
        relevance["pooling"],
        relevance["normalization"],
        relevance["eps"],
        one["positions"],
    ]


def _alpha(row: Plain, arm: int) -> float:
    return float(row["policy"]["arms"][arm]["options"]["alpha"])


def _number(budget: Plain) -> Plain:
    return next(iter(budget.values())) if isinstance(budget, dict) else budget


def _predictor(data: Plain, _: str) -> Plain:
    arms = data["alphas"] if "alphas" in data else [arm["alpha"] for arm in data["arms"]]
    budgets = [{**entry, "budget": _number(entry["budget"])} for entry in data["budgets"]]
    rest = {k: data[k] for k in ("features", "center", "scale", "low", "high")}
    return {"arms": arms, "budgets": budgets, **rest}


def _environment(data: Plain) -> Plain:
    return {k: v for k, v in data["environment"].items() if k != "model fingerprint"}


def _read(path: Path) -> Plain:
    return json.loads(path.read_text(encoding="utf-8"))


def differences(old: Plain, new: Plain, place: str = "") -> list[str]:
    """Return where two values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{place}.{k}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{place}[{i}]")]
    return [] if old == new else [f"{place}: {str(old)[:100]} -> {str(new)[:100]}"]


def main() -> int:
    """Compare two run folders."""
    old, new = old_form(Path(sys.argv[1])), new_form(Path(sys.argv[2]))
    count = 0
    for name in old:
        found = differences(old[name], new[name], name)
        count += len(found)
        print(f"{name}: {'equal' if not found else f'{len(found)} differences'}")
        for line in found[:5]:
            print(f"  {line}")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
