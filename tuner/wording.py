"""How numbers and differences are said, the same in the card and in the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.results import ChosenConfig, Interval, ReportRow, Results

MINUS = "\u2212"

METRICS = {
    "score": "share of questions answered right, by the task's own rule",
    "log_likelihood": "log-likelihood of the right answer, in nats; 0 is the best there is",
    "fidelity": "share of questions answered as the model itself answers with all tokens",
}
METHOD_LABELS = {
    "unpruned": "All tokens",
    "random": "Random tokens",
    "relevance-only": "Relevance only",
    "alpha-0": "Alpha 0",
    "paper-default": "Paper's default",
    "tuned": "Tuned, one alpha",
    "adaptive": "Tuned, adaptive alpha",
}


@dataclass(frozen=True)
class Scale:
    """How scores are written: as percent where they are shares, else as they are.

    Attributes:
        percent: True where every score lies in [0, 1].
    """

    percent: bool

    @classmethod
    def of(cls, results: Results) -> Scale:
        """Choose the scale for a study's results."""
        scores = [row.score for row in results.report] + [row.score for row in results.baselines]
        values = [interval.mean for interval in scores] + [t.score for t in results.trials]
        metric = study_value(results, "task", "metric")
        return cls(metric != "log_likelihood" and all(0.0 <= v <= 1.0 for v in values))

    @property
    def unit(self) -> str:
        """What follows a score: percent, or nothing."""
        return " %" if self.percent else ""

    def number(self, score: float) -> str:
        """Write a score without its unit: ``76.3``."""
        text = f"{score * 100:.1f}" if self.percent else f"{score:.3f}"
        return text.replace("-", MINUS)

    def score(self, score: float) -> str:
        """Write a score: ``76.3 %``."""
        return self.number(score) + self.unit

    def range(self, interval: Interval) -> str:
        """Write the ends of an interval: ``74.9 to 77.7``."""
        return f"{self.number(interval.low)} to {self.number(interval.high)}"

    def interval(self, interval: Interval) -> str:
        """Write a score with its interval: ``76.3 % (74.9 to 77.7)``."""
        return f"{self.score(interval.mean)} ({self.range(interval)})"

    def signed(self, difference: float) -> str:
        """Write a difference without its unit: ``+2.4``."""
        text = self.number(abs(difference))
        if not _counts(text):
            return text
        return ("+" if difference > 0 else MINUS) + text

    def signed_range(self, interval: Interval) -> str:
        """Write the ends of a difference's interval: ``+1.7 to +3.1``."""
        return f"{self.signed(interval.low)} to {self.signed(interval.high)}"

    def difference(self, interval: Interval) -> str:
        """Write a difference with its interval: ``+2.4 points (+1.7 to +3.1)``."""
        unit = " points" if self.percent else ""
        return f"{self.signed(interval.mean)}{unit} ({self.signed_range(interval)})"

    def apart(self, interval: Interval, name: str) -> str:
        """Write a difference from something as words: ``2.4 points above all tokens``."""
        size = self.number(abs(interval.mean))
        if not _counts(size):
            return f"Level with {name}"
        unit = " points" if self.percent else ""
        return f"{size}{unit} {'above' if interval.mean > 0 else 'below'} {name}"


def _counts(number: str) -> bool:
    """Say whether a number as written is anything but zero."""
    return any(digit in number for digit in "123456789")


def verdict(difference: Interval) -> str:
    """Say whether a difference is more than chance: better, worse or within noise.

    A 95 % interval that covers zero is within noise.
    """
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "within noise"


def share(part: float, whole: float) -> str:
    """Write a share as percent: ``5.6 %``, or ``-`` of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def duration(seconds: float) -> str:
    """Write a time: ``2 min 41 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def listed(parts: Iterable[str]) -> str:
    """Join words: ``a, b and c``."""
    words = list(parts)
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def alpha_text(alpha: float | str | None) -> str:
    """Write an alpha: ``0.25``, ``adaptive`` or ``-``."""
    if alpha is None:
        return "-"
    return alpha if isinstance(alpha, str) else f"{alpha:g}"


def study_value(results: Results, *keys: str) -> Any:
    """Look a key of the study up, None where it has none."""
    value: Any = results.study
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def study_name(results: Results) -> str:
    """Return the study's name."""
    return str(study_value(results, "study", "name") or "study")


def tokens_text(budget: int, total: int | None) -> str:
    """Write a budget: ``11 of 196 visual tokens``."""
    of = f" of {total}" if total else ""
    return f"{budget}{of} visual token{'' if budget == 1 and not total else 's'}"


@dataclass(frozen=True)
class Deployed:
    """A chosen config beside its row of the report split.

    Attributes:
        chosen: What the study chose at this budget, on the tune split.
        row: How it scored on the report split, None where it was not scored.
        recommended: Whether its budget is the recommended one.
    """

    chosen: ChosenConfig
    row: ReportRow | None
    recommended: bool


def deployed(results: Results) -> list[Deployed]:
    """Pair every chosen config with its row on the report split, largest budget first."""
    found = []
    for chosen in sorted(results.chosen, key=lambda c: -c.budget):
        name = "adaptive" if chosen.alpha == "adaptive" else "tuned"
        row = find_row(results.report, name, chosen.budget)
        found.append(Deployed(chosen, row, chosen.budget == results.recommended_budget))
    return found


def recommended(results: Results) -> Deployed | None:
    """Return the recommended config, None where the study chose none at that budget."""
    return next((one for one in deployed(results) if one.recommended), None)


def find_row(rows: Sequence[ReportRow], name: str, budget: int | None) -> ReportRow | None:
    """Find a row of the report split."""
    return next((row for row in rows if row.name == name and row.budget == budget), None)


def headline(results: Results) -> str:
    """Say in one sentence which config to use."""
    one = recommended(results)
    if one is None:
        return "The study chose no config."
    total = results.model.visual_tokens
    kept = tokens_text(one.chosen.budget, total)
    if total:
        kept += f" ({share(one.chosen.budget, total)})"
    if one.chosen.alpha == "adaptive":
        return f"Keep {kept}, with alpha chosen for each prompt."
    return f"Keep {kept}, with alpha {alpha_text(one.chosen.alpha)}."


def answer(results: Results) -> list[str]:
    """Say how much worse or better the recommended config is, and how sure that is."""
    one = recommended(results)
    if one is None:
        return []
    scale = Scale.of(results)
    row = one.row
    if row is None:
        tuned = scale.interval(one.chosen.tune_score)
        return [
            f"It scores {tuned} on the samples that chose it; it was not scored on others, so "
            "expect somewhat less."
        ]
    split = results.splits.get("report")
    samples = f"On {split.samples:,} samples" if split else "On samples"
    lead = (
        f"{samples} that the study had not used, this scores {scale.score(row.score.mean)} "
        f"(95 % interval {scale.range(row.score)})"
    )
    unpruned = find_row(results.report, "unpruned", None)
    if unpruned is not None:
        lead += f"; with all tokens the model scores {scale.score(unpruned.score.mean)}"
    lines = [f"{lead}."]
    for name, difference in (
        ("all tokens", row.versus_unpruned),
        ("the paper's default settings at the same budget", row.versus_paper),
    ):
        if difference is None:
            continue
        said = f"{scale.apart(difference, name)} ({scale.signed_range(difference)})"
        if verdict(difference) == "within noise":
            lines.append(
                f"{said}: within noise. The interval covers zero, so these samples do not tell "
                "the two apart."
            )
        else:
            lines.append(f"{said}: more than chance, the interval leaves out zero.")
    return lines
