"""VizWiz-VQA: accuracy against ten annotators; many questions cannot be answered.

Source: lmms-eval 0.7.3, task ``vizwiz_vqa_val``; the data set is that of Gurari et al., arXiv
1802.08218. Kept quirks: as for TextVQA, whose scorer it shares; "unanswerable" is an answer like
any other.
"""

from __future__ import annotations

from tuner.tasks.benchmarks.rules._common import SHORT_ANSWER, Row
from tuner.tasks.benchmarks.rules.textvqa import answers, question, score, summary

__all__ = ["answers", "prompt", "question", "score", "summary"]

_INSUFFICIENT = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."


def prompt(row: Row) -> str:
    """Return the text of the user turn."""
    return question(row) + _INSUFFICIENT + SHORT_ANSWER
