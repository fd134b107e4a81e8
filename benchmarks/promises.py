"""How often is a promise broken? A thousand studies and four hundred guards, replayed on the table.

    python -m benchmarks.promises studies --count 1000 --log /tmp/studies.jsonl     # resumable
    python -m benchmarks.promises adaptive --count 400 --log /tmp/adaptive.jsonl
    python -m benchmarks.promises studies --summary --log /tmp/studies.jsonl

``studies``: search, choice and certificate on images drawn from nano-llava's table, beside the rule
that came before it: fewest tokens whose tune score is within 2 % of the unpruned tune score, else
the knee. A promise is broken where a policy truly, over the whole table, loses more than claimed.

``adaptive``: the guard of the alpha predictor on features permuted over samples. They tell nothing,
so whatever it adopts is adopted falsely. Beside it, in the first hundred replays, the guard that
came before; every fourth of those fits the true features too, and scores what was adopted on the
images left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.choosing import shipped
from benchmarks.former import TOLERANCE, former_recommendation, near_tie
from benchmarks.replay import SAMPLERS, Draw, Grid, Rule, choose, draw, first_samples
from benchmarks.replays import logged, replays
from benchmarks.table import Table
from benchmarks.wilson import share
from resprune.budget import Count
from resprune.certificate import Claim
from tuner.certificate import Entry, Split, order_by_promise
from tuner.certificate import certify as certificate

BUDGETS = (98, 64, 43, 22, 11, 6)
OLD_BUDGETS = {"43 to 6": (43, 22, 11, 6), "98 to 6": BUDGETS}
LOSSES = (0.02, 0.05)
CONFIDENCE = 0.95
TUNE, CERTIFY = (300, 1), (600, 1)  # images and questions of each
OLD_TUNE, OLD_SAMPLES = (38, 8), 300
TRIALS = 64


def certify(
    table: Table, chosen: Mapping[int, int], tune: Draw, fresh: Draw, loss: float
) -> list[int]:
    """Test the chosen settings in the order of their promise, as a study does.

    Args:
        table: The table.
        chosen: Row by budget.
        tune: Split that the order comes from.
        fresh: The certify split, one question an image.
        loss: Of the claim.

    Returns:
        The budgets that were certified, in the order of testing.
    """
    claim = Claim(loss=loss, confidence=CONFIDENCE)
    entries = [Entry(Count(count=budget), budget) for budget in chosen]
    rows = [table.scores(row, tune.samples) for row in chosen.values()]
    unpruned = table.scores(table.unpruned, tune.samples)
    order = order_by_promise(entries, rows, unpruned, _names(tune), claim)
    names = _names(fresh)
    split = Split(table.scores(table.unpruned, fresh.samples), names, names)
    tested = certificate(
        [entries[place] for place in order],
        lambda entry: table.scores(chosen[entry.tokens], fresh.samples),
        split,
        claim,
        "exact",
    )
    return [each.tokens for each in tested if each.certified]


def _names(split: Draw) -> list[str]:
    return [str(image) for image in split.images]


def study(table: Table, sampler: str, number: int) -> dict[str, Any]:
    """Replay a study under the new rule, and one under the old."""
    rng = np.random.default_rng([number, 2])
    tune, fresh = draw(table, *TUNE, rng), draw(table, *CERTIFY, rng)
    chosen = _search(table, sampler, BUDGETS, tune, number, shipped)
    found: dict[str, Any] = {
        "chosen": chosen,
        "certified": {str(loss): certify(table, chosen, tune, fresh, loss) for loss in LOSSES},
        "old": {},
    }
    old_tune = first_samples(draw(table, *OLD_TUNE, rng), OLD_SAMPLES)
    for name, budgets in OLD_BUDGETS.items():
        old = _search(table, sampler, budgets, old_tune, number, near_tie)
        means = {b: float(table.right[row, old_tune.samples].mean()) for b, row in old.items()}
        unpruned = float(table.right[table.unpruned, old_tune.samples].mean())
        tokens, claimed = former_recommendation(means, unpruned)
        found["old"][name] = {"tokens": tokens, "row": old[tokens], "claimed": claimed}
    return found


def _search(
    table: Table, sampler: str, budgets: Sequence[int], tune: Draw, seed: int, rule: Rule
) -> dict[int, int]:
    space = Grid(table, budgets)
    scores = table.right[:, tune.samples].mean(axis=1)
    tried = SAMPLERS[sampler](space, table, scores, TRIALS, seed)
    return choose(space, table, tried, tune, rule)


def study_rows(table: Table, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Count what was promised and what was broken, one row a rule.

    Args:
        table: The table.
        found: Replays of ``study``.

    Returns:
        By rule: studies, promises made, broken, what was recommended.
    """
    unpruned = table.truth[table.unpruned]
    rows = []
    for loss in LOSSES:
        promised, broken, tokens = [], 0, []
        for each in found:
            own = each["certified"][str(loss)]
            promised.append(bool(own))
            tokens += [min(own)] if own else []
            # over all that were certified, not over the recommended one alone
            lost = [unpruned - table.truth[each["chosen"][str(b)]] for b in own]
            broken += any(x >= loss - 1e-12 for x in lost)
        rows.append(
            {"rule": f"certified, {100 * loss:.0f} points", "studies": len(found),
             "promised": sum(promised), "broken": broken, "tokens": tokens}
        )  # fmt: skip
    for name in OLD_BUDGETS:
        old = [each["old"][name] for each in found]
        claimed = [o for o in old if o["claimed"]]
        floor = (1 - TOLERANCE) * unpruned
        rows.append(
            {"rule": f"2 % on tune, {name}", "studies": len(found), "promised": len(claimed),
             "broken": sum(table.truth[o["row"]] < floor - 1e-12 for o in claimed),
             "tokens": [o["tokens"] for o in claimed],
             "knee": [unpruned - table.truth[o["row"]] for o in old if not o["claimed"]]}
        )  # fmt: skip
    return rows


def study_summary(table: Table, found: Sequence[Mapping[str, Any]]) -> str:
    """Tabulate the studies."""
    lines = [
        f"{len(found)} studies; the unpruned model truly scores "
        f"{table.truth[table.unpruned]:.4f}; the best settings of the grid truly lose "
        + ", ".join(
            f"{table.truth[table.unpruned] - max(table.truth[table.rows('resprune', b)]):.4f} "
            f"at {b}"
            for b in BUDGETS
        ),
        "",
        "| rule | promises | broken, of all studies | of promises | tokens promised | else |",
        "|---|---|---|---|---|---|",
    ]
    for row in study_rows(table, found):
        counts = {b: row["tokens"].count(b) for b in BUDGETS if b in row["tokens"]}
        knee = row.get("knee", [])
        lines.append(
            f"| {row['rule']} | {share(row['promised'], row['studies'])} "
            f"| {share(row['broken'], row['studies'])} | {share(row['broken'], row['promised'])} "
            f"| {', '.join(f'{b}: {c}' for b, c in counts.items())} "
            f"| {f'a knee that loses {100 * np.mean(knee):.1f} points' if knee else ''} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run replays, or sum up a log."""
    import optuna

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("studies", "adaptive"))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--log", type=Path, required=True, help="one JSON line a replay")
    parser.add_argument("--summary", action="store_true", help="sum up the log; run nothing")
    parser.add_argument("--sampler", choices=sorted(SAMPLERS), default="tpe")
    parser.add_argument("--table", type=Path, help="default: the shipped one")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table = Table.shipped() if args.table is None else Table.load(args.table)
    replay: Callable[[int], dict[str, Any]] = partial(study, table, args.sampler)
    if args.what == "adaptive":
        from benchmarks import guards

        replay = guards.Guards(table, BUDGETS).replay
    found = logged(args.log) if args.summary else replays(args.log, args.count, replay)
    if args.what == "adaptive":
        print(guards.summary(BUDGETS, found))
    else:
        print(study_summary(table, found))


if __name__ == "__main__":
    main()
