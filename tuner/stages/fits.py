"""Whether a study fits its model: what only the model can tell."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from resprune import methods
from resprune.backbones import Backbone
from resprune.budget import Count, Energy
from resprune.errors import ResPruneError, StudyError
from resprune.layers import compact_inside
from resprune.methods.layers import LayerMethod
from resprune.options import Positions
from resprune.plan import needs_of, signals_of
from resprune.setting import Setting
from tuner.scoring.model import depth_of
from tuner.search.space import Space
from tuner.study import StudyConfig

_USUAL_TOKENS = 576  # where T follows the image


def spaces_of(study: StudyConfig, backbone: Backbone) -> dict[str, Space]:
    """Return what is tried, by method, on a model."""
    return {
        name: Space(study.search, name, study.budgets(), own_positions(name, backbone))
        for name in study.search.method
    }


def check_model(study: StudyConfig, backbone: Backbone) -> None:
    """Check what only the model can tell: budgets over T, and signals.

    Raises:
        ResPruneError: A budget over the fixed T, or a signal that the vision tower cannot give.
    """
    where, fixed = study.study.name, backbone.visual_tokens
    check_inside(study, backbone)
    for name, space in spaces_of(study, backbone).items():
        budget = study.budgets()[0]
        for setting in (space.base(budget), *itertools.chain(*space.ends(budget).values())):
            backbone.require_signals(signals_of(needs_of(setting), backbone.seed_signals))
        if methods.get(name).stage == "image" and fixed is not None:
            raise StudyError(
                f"{where}: search.method: {name!r} is not comparable on this model, whose tower "
                f"gives {fixed} visual tokens whatever the image's size; leave it out"
            )
    if fixed is None:
        return
    for budget in study.budgets():
        most = {Count: "count", Energy: "most"}.get(type(budget))
        if most is not None and getattr(budget, most) > fixed:
            raise StudyError(
                f"{where}: search.budget: {budget} is over the {fixed} visual tokens of this "
                f"model; give counts from 1 to {fixed}"
            )
    for one, other in itertools.combinations(study.budgets(), 2):
        if Energy not in (type(one), type(other)) and one.limit(fixed) == other.limit(fixed):
            raise StudyError(
                f"{where}: search.budget: {other} is {other.limit(fixed)} tokens, which {one} "
                "already is; keep one of them"
            )


def unfit(study: StudyConfig, backbone: Backbone) -> dict[str, str]:
    """Return the methods of a study that do not fit its model, each with the reason."""
    found = {}
    for name in study.search.method:
        try:
            check_model(only(study, (name,)), backbone)
        except ResPruneError as error:
            found[name] = str(error).removeprefix(f"{study.study.name}: ")
    return found


def only(study: StudyConfig, names: Sequence[str]) -> StudyConfig:
    """Return a study that searches some of its methods."""
    search = study.search.model_copy(update={"method": tuple(names)})
    return study.model_copy(update={"search": search})


def own_positions(name: str, backbone: Backbone) -> Positions:
    """Return a method's positions where a study leaves them out: as published, if they work."""
    method = methods.get(name)
    if isinstance(method, LayerMethod) and compact_inside(backbone):
        return method.published
    return "keep"


def check_inside(study: StudyConfig, backbone: Backbone) -> None:
    """Check what is done inside the LLM: positions, and layers on a decoder of this depth.

    Raises:
        StudyError: Not on this model; the message names the key.
    """
    search = study.search
    inside = [name for name in search.method if methods.get(name).stage == "layers"]
    if not inside and search.later is None:
        return
    where = study.study.name
    if "compact" in (search.positions or ()) and not compact_inside(backbone):
        who = ", ".join(map(repr, inside)) or "search.later"
        raise StudyError(
            f"{where}: search.positions: inside the LLM of {backbone.family} positions cannot be "
            f"renumbered, and {who} acts there; leave out 'compact'"
        )
    for budget in study.budgets():
        for name, space in spaces_of(study, backbone).items():
            base = space.base(budget)
            if base.inside is None:
                continue
            if base.later is not None:
                _check_layers(base, backbone, f"{where}: search.later")
                continue
            _check_layers(base, backbone, f"{where}: search.{name}")
            for key, settings in space.ends(budget).items():
                for setting in settings:
                    _check_layers(setting, backbone, f"{where}: search.{name}.{key}")


def _check_layers(setting: Setting, backbone: Backbone, place: str) -> None:
    """Ask a setting's method inside the LLM for its layers on this model."""
    later = setting.inside
    assert later is not None
    method = methods.get(later.method)
    assert isinstance(method, LayerMethod)
    tokens = backbone.visual_tokens or _USUAL_TOKENS
    entering = tokens if setting.later is None else setting.budget.limit(tokens)
    left = later.budget.limit(tokens)
    if backbone.visual_tokens is not None and left > entering:
        raise StudyError(
            f"{place}: {left} tokens are to be left of the {entering} that the budget "
            f"{setting.budget} lets in; lower later.budget, or leave that budget out"
        )
    try:
        method.schedule(later.options, depth_of(backbone), entering, min(left, entering))
    except ResPruneError as error:
        raise StudyError(f"{place}: {error}") from None
