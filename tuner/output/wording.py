"""How numbers, differences and settings are said, the same in the card, report and console."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from resprune.budget import Ratio
from resprune.options import Options, searchable
from resprune.setting import Adaptive, Setting, fixed
from tuner.results.schema import Comparison, Interval, Results
from tuner.results.verdicts import LEAST_IMAGES
from tuner.scoring import metrics

MINUS = "\u2212"
INTERVALS = (
    "Intervals are 95 % t intervals over images: made in this way from other samples, about 95 in "
    "100 of them hold the mean over all samples of this kind. Differences are paired, measured on "
    "the same samples."
)
COST = (
    "Cost: visual tokens averaged over the language model's layers; a method inside it runs some "
    "layers on more tokens than it leaves in the end."
)
VERDICTS = (
    "Each interval stands alone, but better and worse are said of all differences of the report "
    "together (Holm): in 95 of 100 reports not one of these words is wrong. So a difference whose "
    "interval leaves out zero can still be within noise, which means that these samples do not "
    f"tell the two apart. Under {LEAST_IMAGES} images there is no verdict."
)
_SHORT = {"seed_strategy": "seed"}


@dataclass(frozen=True)
class Scale:
    """How scores are written: as percent where they are shares, else as they are.

    Attributes:
        factor: What a score is multiplied with.
        digits: Digits behind the point.
        unit: What follows a score.
    """

    factor: float = 100.0
    digits: int = 1
    unit: str = " %"

    @classmethod
    def of(cls, results: Results) -> Scale:
        """Choose the scale for a study's metric."""
        return cls.of_metric(results.study["task"]["metric"])

    @classmethod
    def of_metric(cls, name: str) -> Scale:
        """Choose the scale for a metric's name."""
        return cls() if metrics.get(name).kind == "answer" else cls(1.0, 3, "")

    def number(self, score: float) -> str:
        """Write a score without its unit: ``76.3``."""
        return f"{score * self.factor:.{self.digits}f}".replace("-", MINUS)

    def range(self, interval: Interval) -> str:
        """Write the ends of an interval: ``74.9 to 77.7``."""
        return f"{self.number(interval.low)} to {self.number(interval.high)}"

    def interval(self, interval: Interval) -> str:
        """Write a score with its interval: ``76.3 % (74.9 to 77.7)``."""
        return f"{self.number(interval.mean)}{self.unit} ({self.range(interval)})"

    def signed(self, difference: float) -> str:
        """Write a difference: ``+2.4``; one that rounds to zero has no sign."""
        text = self.number(abs(difference))
        if float(text) == 0:
            return text
        return ("+" if difference > 0 else MINUS) + text

    def signed_range(self, interval: Interval) -> str:
        """Write the ends of a difference's interval: ``+1.7 to +3.1``."""
        return f"{self.signed(interval.low)} to {self.signed(interval.high)}"

    def difference(self, interval: Interval | None) -> str:
        """Write a difference with its interval: ``+2.4 (+1.7 to +3.1)``; ``-`` for none."""
        if interval is None:
            return "-"
        return f"{self.signed(interval.mean)} ({self.signed_range(interval)})"

    def comparison(self, one: Comparison | None, *, named: bool = False) -> str:
        """Write a difference with its verdict: ``+2.4 (+1.7 to +3.1), better``.

        Args:
            one: The comparison; None gives ``-``.
            named: Whether to say what it is against: ``l2_norm: +2.4 ...``.
        """
        if one is None:
            return "-"
        before = f"{one.against}: " if named else ""
        return f"{before}{self.difference(one)}, {one.verdict}"


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


def kept_text(
    policy: Setting | Adaptive, tokens: int | None, total: int | None, noun: str = ""
) -> str:
    """Write how much is kept: ``11 of 196 (5.6 %)``.

    Args:
        policy: The policy.
        tokens: Mean count that it keeps; None for all.
        total: Visual tokens of an image, None where they vary.
        noun: Follows the count, such as ``visual tokens``.

    Returns:
        The text; a budget that is no count, or that a later stage goes below, stands before it.
    """
    budget, later = policy.budget, fixed(policy).later
    noun = f" {noun}" if noun else ""
    if tokens is None:
        return f"all {total or ''}".rstrip() + noun
    kept = f"{tokens} of {total}{noun} ({share(tokens, total)})" if total else f"{tokens}{noun}"
    if later is not None:
        return f"{budget}, then {kept}"
    if str(budget) == str(tokens):
        return kept
    each = " of each image" if isinstance(budget, Ratio) else ""
    return f"{budget}{each}: {kept} on average"


def searched_options(results: Results) -> frozenset[tuple[str, str]]:
    """Return the (method, option) pairs of which the trials hold more than one value."""
    values: dict[tuple[str, str], set[Any]] = {}
    for setting in (trial.setting for trial in results.trials):
        for name in searchable(type(setting.options)):
            values.setdefault((setting.method, name), set()).add(setting.option(name))
    return frozenset(key for key, found in values.items() if len(found) > 1)


def policy_text(
    policy: Setting | Adaptive,
    searched: Collection[tuple[str, str]] = (),
    without: str = "",
) -> str:
    """Write a policy in short: ``resprune, alpha by prompt, seed l2_norm``.

    Defaults are left out, but of options that a study searches always, or that this one searched.

    Args:
        policy: The policy.
        searched: Pairs of method and option; see `searched_options`.
        without: An option to leave out.

    Returns:
        The text. Its words may come from third parties: escape it.
    """
    arms = policy.arms if isinstance(policy, Adaptive) else (policy,)
    varied, later = _varied(arms), arms[0].later
    words = [policy.method]
    words += _option_texts(policy.method, arms[0].options, searched, without, varied)
    if policy.positions != "keep":
        words.append(f"positions {policy.positions}")
    if later is not None:
        words.append(f"then {later.method} to {later.budget}")
        words += _option_texts(later.method, later.options, searched)
    return ", ".join(words)


def _option_texts(
    method: str,
    options: Options,
    searched: Collection[tuple[str, str]],
    without: str = "",
    varied: Collection[str] = (),
) -> list[str]:
    ranges, defaults = searchable(type(options)), _leaves(type(options)())
    words = []
    for name, value in _leaves(options).items():
        always = name in ranges and not ranges[name].asked
        if name in varied:
            words.append(f"{option_word(name)} by prompt")
        elif name != without and (always or value != defaults[name] or (method, name) in searched):
            words.append(f"{option_word(name)} {_value(value)}")
    return words


def arms_text(policy: Adaptive) -> list[str]:
    """Name the arms by what they differ in: ``["alpha 0", "alpha 0.25"]``."""
    varied = _varied(policy.arms)
    each = [_leaves(arm.options) for arm in policy.arms]
    return [
        ", ".join(f"{option_word(name)} {_value(values[name])}" for name in varied)
        for values in each
    ]


def option_word(name: str) -> str:
    """Return how an option is called in texts."""
    return _SHORT.get(name, name.replace("_", " "))


def _varied(arms: tuple[Setting, ...]) -> list[str]:
    each = [_leaves(arm.options) for arm in arms]
    return [name for name in each[0] if len({values[name] for values in each}) > 1]


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _leaves(options: BaseModel) -> dict[str, Any]:
    """Return options and those of nested tables by name."""
    found: dict[str, Any] = {}
    for name in type(options).model_fields:
        value = getattr(options, name)
        found |= _leaves(value) if isinstance(value, BaseModel) else {name: value}
    return found
