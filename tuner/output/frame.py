"""The rows of the results as one table: what report, card and console are made from."""

from __future__ import annotations

from typing import Any

import pandas as pd

from resprune.setting import unpruned
from tuner.output.wording import kept_text, policy_text, searched_options
from tuner.results.rows import KINDS, RowKind, label_of
from tuner.results.schema import Interval, Results, Row


def rows_frame(results: Results) -> pd.DataFrame:
    """Make one table of all that was scored.

    Args:
        results: What the study found.

    Returns:
        A row for each row of the report split and of the tune split (baselines and what was
        chosen), from all tokens to few, then in the order of ``KINDS``. Columns: ``split``,
        ``kind``, ``label``, ``setting`` and ``kept`` (texts), ``policy``, ``method``,
        ``budget``, ``tokens`` (a mean count; 0 where all are kept and the model does not say how
        many), ``cost`` (those averaged over the decoder layers), ``mean``, ``low``, ``high``,
        ``versus_unpruned`` and ``versus_strongest`` (Comparison or None), ``by_group``
        (Interval by name), ``measures`` (number by name), ``exported``, ``recommended``.
    """
    total = results.model.visual_tokens
    searched = searched_options(results)
    chosen = [each.policy for each in results.chosen]
    budgets = [each.setting.budget for each in results.chosen]
    order: list[RowKind] = list(KINDS)

    def rank(row: Row) -> int:
        """Tell budgets apart of which a later stage leaves the same count."""
        return budgets.index(row.policy.budget) if row.policy.budget in budgets else -1

    def line(split: str, row: Row) -> dict[str, Any]:
        exported = split == "report" and row.kind in ("tuned", "adaptive") and row.policy in chosen
        return {
            "split": split,
            "kind": row.kind,
            "label": label_of(row.kind, row.policy.method, row.notes),
            "setting": "" if row.kind == "unpruned" else policy_text(row.policy, searched),
            "kept": kept_text(row.policy, row.tokens, total),
            "policy": row.policy,
            "method": row.policy.method,
            "budget": str(row.policy.budget),
            "tokens": row.tokens or total or 0,
            "cost": row.cost or total or 0,
            **row.score.model_dump(),
            "versus_unpruned": row.versus_unpruned,
            "versus_strongest": row.versus_strongest,
            "by_group": row.by_group,
            "measures": row.measures,
            "exported": exported,
            "recommended": exported and row.policy.budget == results.recommended,
            "place": (row.tokens is not None, -(row.tokens or 0), rank(row), order.index(row.kind)),
        }

    tuned = [
        Row(
            kind="tuned",
            policy=each.setting,
            tokens=each.tokens,
            cost=each.cost,
            notes=each.notes,
            score=each.tune_score,
        )
        for each in results.chosen
    ]
    lines = [line("report", row) for row in results.report]
    lines += [line("tune", row) for row in (*results.baselines, *tuned)]
    if not lines:  # the columns of an empty table
        nothing = Interval(mean=0.0, low=0.0, high=0.0)
        none = Row(kind="unpruned", policy=unpruned(), tokens=None, cost=None, score=nothing)
        return pd.DataFrame([line("tune", none)]).drop(columns="place").iloc[:0]
    lines.sort(key=lambda each: each.pop("place"))
    return pd.DataFrame(lines)


def acts_inside(rows: pd.DataFrame) -> bool:
    """Say whether a row of the table acts inside the LLM, so that its cost is not its count."""
    return bool((rows.cost != rows.tokens).any())
