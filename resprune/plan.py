"""Setting + image + prompt -> plan: what enters the LLM of one image.

The one way that ``attach`` and studies share: policy -> setting -> plan -> LLM. What is kept
depends on the question alone, never on an answer.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from resprune import methods
from resprune.alpha import AlphaPredictor, prompt_features, question_form
from resprune.backbones import VisualTokens
from resprune.budget import Energy
from resprune.errors import ConfigError, ResPruneError
from resprune.methods.base import ATTENTION, Batch, Inputs, Method, Nested, Selection
from resprune.options import Options, Positions, Relevance
from resprune.prompt import Prompt
from resprune.relevance import mean_noun, noun_cosines, relevance_of_cosines
from resprune.setting import Adaptive, Setting
from resprune.subspace.energy import energy_curve


@dataclass(frozen=True)
class Rule:
    """What happens to one image's visual tokens inside the LLM.

    Attributes:
        method: Name of a method inside the LLM.
        options: Its options.
        count: Visual tokens left in the end.
    """

    method: str
    options: Options
    count: int

    def key(self) -> str:
        """Return canonical JSON of the rule and the method's version."""
        return f"{made_by(methods.get(self.method), self.options)} {self.count}"


@dataclass(frozen=True, eq=False)
class Plan:
    """What enters the LLM of one image.

    Attributes:
        kept: Sorted unique indices of the kept visual tokens, shape (k,), int64.
        positions: Position policy.
        features: Features (k, d) that replace those of ``kept``, row by row; None leaves them.
        maker: Canonical JSON of the method, its version and options where features are replaced.
        order: ``kept`` in pick order, shape (k,); None where no order is known.
        rule: What drops more of them inside the LLM, or None. Which ones is known only there.
    """

    kept: Tensor
    positions: Positions = "keep"
    features: Tensor | None = None
    maker: str = ""
    order: Tensor | None = field(default=None, repr=False)
    rule: Rule | None = None

    def key(self) -> bytes:
        """Return what tells two plans of one image apart.

        Replaced features count by who made them, never by their values, whose last bits change
        with the batch.
        """
        kept = self.kept.to("cpu", torch.int32).numpy().tobytes()
        inside = [] if self.rule is None else [self.rule.key().encode()]
        return b" ".join([self.positions.encode(), self.maker.encode(), *inside, kept])


def everything(tokens: int, positions: Positions = "keep") -> Plan:
    """Return the plan of the unpruned model for an image of ``tokens`` visual tokens."""
    return Plan(torch.arange(tokens), positions)


def joined(plans: Sequence[Plan], tokens: Sequence[int]) -> Plan:
    """Make one plan of those of several images of one prompt; ``parted`` takes it apart.

    Args:
        plans: One an image, in order, of one position policy.
        tokens: Visual tokens T_i of each image.

    Returns:
        A plan whose indices count on from image to image; what its rule leaves is the sum, as the
        images are one pool inside the LLM.
    """
    if len(plans) == 1:
        return plans[0]
    starts = [0, *accumulate(tokens)]
    rows = list(zip(plans, starts, strict=False))
    replaced = [plan.features for plan in plans if plan.features is not None]
    rules = [plan.rule for plan in plans if plan.rule is not None]
    return Plan(
        torch.cat([plan.kept + start for plan, start in rows]),
        plans[0].positions,
        torch.cat(replaced) if replaced else None,
        plans[0].maker,
        rule=replace(rules[0], count=sum(rule.count for rule in rules)) if rules else None,
    )


def parted(plan: Plan, tokens: Sequence[int]) -> list[Plan]:
    """Take apart what ``joined`` made, its order and rule left out.

    Args:
        plan: The plan of a prompt.
        tokens: Visual tokens T_i of each of its images.

    Returns:
        One plan an image.
    """
    if len(tokens) == 1:
        return [plan]
    starts = torch.tensor([0, *accumulate(tokens)])
    ends = torch.searchsorted(plan.kept.cpu(), starts).tolist()
    return [
        replace(
            plan,
            kept=plan.kept[low:high] - int(start),
            features=None if plan.features is None else plan.features[low:high],
            order=None,
            rule=None,
        )
        for low, high, start in zip(ends, ends[1:], starts.tolist(), strict=False)
    ]


# -- policy -> setting --------------------------------------------------------------------


def choose_setting(
    policy: Setting | Adaptive,
    predictor: AlphaPredictor | None,
    prompt: Prompt,
    visual: VisualTokens,
    cosines: Tensor | None = None,
) -> tuple[Setting, bool]:
    """Choose the setting of one prompt and image.

    Args:
        policy: A setting, or arms.
        predictor: The arms' predictor.
        prompt: The question.
        visual: The encoded image.
        cosines: What ``cosines_of`` gives, where it is known already; on any device.

    Returns:
        The policy itself, or the arm of least predicted loss; and whether the prompt is unlike
        those that the predictor was fitted on, so that the arm is the best fixed one.

    Raises:
        ConfigError: Arms without their predictor, or one that was not fitted for their budget.
    """
    if isinstance(policy, Setting):
        return policy, False
    if predictor is None:
        raise ConfigError(
            f"the policy at budget {policy.budget} is adaptive and there is no {policy.predictor}"
        )
    if cosines is None:
        cosines = cosines_of(visual, prompt)
    features = prompt_features(prompt.context(cosines))[None]
    forms = [question_form(prompt.question, prompt.tags)]
    (arm,) = predictor.arms_for(features, forms, policy.budget)
    return policy.arms[arm], bool(predictor.outside(features, forms)[0])


def needs_of(policy: Setting | Adaptive) -> frozenset[str]:
    """Return what a policy reads beside the tokens.

    Args:
        policy: A setting, or arms.

    Returns:
        What ``Method.needs`` names, over all arms; ``nouns`` too where the prompt is read.
    """
    settings = [policy] if isinstance(policy, Setting) else policy.arms
    found: set[str] = set()
    for setting in settings:
        found |= methods.get(setting.method).needs(setting.options)
    if isinstance(policy, Adaptive) or "relevance" in found:
        found.add("nouns")
    return frozenset(found)


def signals_of(needs: Collection[str], offered: Collection[str]) -> frozenset[str]:
    """Return the vision signals to record for what methods need.

    Args:
        needs: What ``needs_of`` returns.
        offered: ``Backbone.seed_signals``.

    Returns:
        Names for ``Backbone.encode(signals=...)``. ``attention`` is ``cls_attention``, or
        ``received_attention`` where only that is on offer; a signal named by itself is not
        replaced.
    """
    found = set(needs) - {ATTENTION, "relevance", "nouns"}
    if ATTENTION in needs:
        missing = "cls_attention" not in offered and "received_attention" in offered
        found.add("received_attention" if missing else "cls_attention")
    return frozenset(found)


# -- setting -> plan ----------------------------------------------------------------------


def plan_images(
    images: Sequence[VisualTokens],
    prompts: Sequence[Prompt | None],
    settings: Sequence[Setting],
    keys: Sequence[str],
    cosines: Sequence[Tensor | None] | None = None,
) -> list[Plan]:
    """Plan the images of one call, each under its own setting.

    Images that share a setting are ordered together where the method has a batched path.

    Args:
        images: N encoded images.
        prompts: The question about each; None where its setting reads none.
        settings: One an image.
        keys: Name of each sample, for methods that draw at random.
        cosines: What ``cosines_of`` gives for each, where it is known already.

    Returns:
        One plan an image.

    Raises:
        ResPruneError: Features that are not finite, a signal that is absent, or a method that did
            not keep exactly ``min(k, T)`` unique tokens.
    """
    known = cosines if cosines is not None else [None] * len(images)
    groups: dict[Setting, list[int]] = defaultdict(list)
    for i, setting in enumerate(settings):
        groups[setting].append(i)
    plans: dict[int, Plan] = {}
    for setting, rows in groups.items():
        own = [inputs_of(images[i], prompts[i], setting, keys[i], known[i]) for i in rows]
        plans |= zip(rows, plan_inputs(own, setting), strict=True)
    return [plans[i] for i in range(len(images))]


def plan_inputs(images: Sequence[Inputs], setting: Setting) -> list[Plan]:
    """Plan images under one setting; see ``plan_images``."""
    method = methods.get(setting.method)
    if method.stage == "layers":
        return [with_rule(everything(len(i.tokens), setting.positions), setting) for i in images]
    if isinstance(method, Nested):
        limits = [setting.budget.limit(len(image.tokens)) for image in images]
        batch = batch_of(
            [(image.tokens, image.signals) for image in images],
            [None if image.relevance is None else image.relevance[None] for image in images],
        )
        orders = method.order_many(batch, [setting.options], max(limits))[:, 0, 0]
        check_orders(orders, limits, [len(image.tokens) for image in images], setting.method)
        selections = [Selection(row[:k]) for row, k in zip(orders, limits, strict=True)]
    else:
        selections = [select(image, setting) for image in images]
    return [
        plan_of(selection, image, setting)
        for selection, image in zip(selections, images, strict=True)
    ]


def select(image: Inputs, setting: Setting) -> Selection:
    """Ask a method for what one image keeps at most, and check that it kept exactly that.

    Raises:
        ResPruneError: The method did not keep exactly ``min(k, T)`` unique tokens in range.
    """
    method = methods.get(setting.method)
    k = setting.budget.limit(len(image.tokens))
    selection = method.select(image, k, setting.options)
    kept, features = selection.indices, selection.features
    if kept.shape != (k,) or kept.dtype != torch.int64:
        raise ResPruneError(
            f"method {setting.method!r} gave {kept.dtype} indices of shape {tuple(kept.shape)} for "
            f"an image of {len(image.tokens)} tokens and was asked for {k}; it must keep exactly "
            "min(k, T), as int64 indices"
        )
    if features is not None and features.shape != (k, image.tokens.shape[1]):
        raise ResPruneError(
            f"method {setting.method!r} gave features of shape {tuple(features.shape)}; give a row "
            f"a kept token: ({k}, {image.tokens.shape[1]})"
        )
    check_orders(selection.indices[None], [k], [len(image.tokens)], setting.method)
    return selection


def plan_of(selection: Selection, image: Inputs, setting: Setting) -> Plan:
    """Turn what a method kept into a plan; an energy budget cuts it where the energy says so."""
    order, features = selection.indices, selection.features
    method = methods.get(setting.method)
    if isinstance(setting.budget, Energy):
        curve = energy_curve(image.tokens, order, method.weights(image, setting.options))
        order = order[: setting.budget.of(len(image.tokens), curve.tolist())]
    kept, rank = order.sort()
    plan = Plan(kept, setting.positions, order=order)
    if features is not None:
        maker = made_by(method, setting.options)
        plan = Plan(kept, setting.positions, features[rank], maker, order)
    return with_rule(plan, setting, len(image.tokens))


def with_rule(plan: Plan, setting: Setting, tokens: int | None = None) -> Plan:
    """Return an image's plan with what its setting does inside the LLM.

    Args:
        plan: What enters the LLM.
        setting: The setting.
        tokens: Visual tokens T of the image, of which ratios are shares; None: all of them enter.
    """
    later = setting.inside
    if later is None:
        return plan
    entering = len(plan.kept)
    count = min(later.budget.limit(entering if tokens is None else tokens), entering)
    return replace(plan, rule=Rule(later.method, later.options, count))


def made_by(method: Method[Any], options: Options) -> str:
    """Return canonical JSON of who replaces features: method, version and options."""
    data = {"method": method.name, "version": method.version, "options": options.model_dump()}
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def check_orders(orders: Tensor, counts: Sequence[int], tokens: Sequence[int], method: str) -> None:
    """Check that each order begins with as many unique indices in range as it should.

    Args:
        orders: Pick orders, shape (N, K).
        counts: How many of each are kept.
        tokens: Visual tokens of each image.
        method: Name of the method, for the error.

    Raises:
        ResPruneError: An index out of range, or twice.
    """
    found = orders.cpu().numpy()  # the one wait for the device; small tensors are slow
    place = np.arange(found.shape[1])
    inside = place < np.array(counts)[:, None]
    in_range = (found >= 0) & (found < np.array(tokens)[:, None])
    ranked = np.sort(np.where(inside, found, -1 - place), axis=1)
    fine = (in_range | ~inside).all() and (np.diff(ranked, axis=1) != 0).all()
    if found.shape[1] < max(counts) or not fine:
        raise ResPruneError(
            f"method {method!r} kept an index twice or out of range; it must keep exactly "
            "min(k, T) unique tokens"
        )


# -- what methods are given ---------------------------------------------------------------


def inputs_of(
    visual: VisualTokens,
    prompt: Prompt | None,
    setting: Setting,
    key: str = "",
    cosines: Tensor | None = None,
) -> Inputs:
    """Collect what a setting's method reads of one image and prompt.

    Args:
        visual: The encoded image.
        prompt: The question; may be None where the method reads no relevance.
        setting: The setting.
        key: Names the sample.
        cosines: What ``cosines_of`` gives, where it is known already.

    Returns:
        The inputs; relevance only where the method needs it.
    """
    relevance = None
    options: Any = setting.options
    if "relevance" in methods.get(setting.method).needs(options):
        assert prompt is not None
        relevance = relevance_of(visual, prompt, options.relevance, cosines)
    extras = visual.extras
    if prompt is not None and prompt.text_embeds is not None:
        extras = {**extras, "text_embeds": prompt.text_embeds}
    return Inputs(
        visual.tokens,
        relevance,
        visual.signals,
        extras,
        visual.tile_row_column(),
        key,
    )


def relevance_of(
    visual: VisualTokens, prompt: Prompt, options: Relevance, cosines: Tensor | None = None
) -> Tensor:
    """Score an image's tokens against a prompt's nouns, shape (T,); see ``relevance_scores``.

    The device is not waited for: what is not finite is found by ``encode`` and by the methods.
    """
    if options.pooling == "pooled" and prompt.nouns:
        cosines = noun_cosines(visual.tokens, mean_noun(prompt.embeddings.float()))
    elif cosines is None:
        cosines = cosines_of(visual, prompt)
    return relevance_of_cosines(cosines, options.pooling, options.normalization, options.eps)


def cosines_of(visual: VisualTokens, prompt: Prompt) -> Tensor:
    """Return the raw cosine of each noun with each visual token, shape (L, T), float32."""
    return noun_cosines(visual.tokens, prompt.embeddings)


def batch_of(
    images: Sequence[tuple[Tensor, Mapping[str, Tensor]]], relevance: Sequence[Tensor | None]
) -> Batch:
    """Pad images into one batch.

    Args:
        images: Tokens (T_i, d) and per-token signals of each of B images.
        relevance: Relevance of each image's prompts, (Q, T_i), or None.

    Returns:
        The batch.
    """
    lengths = [len(tokens) for tokens, _ in images]
    ragged = len(set(lengths)) > 1
    names = images[0][1].keys()
    given = [rows for rows in relevance if rows is not None]
    return Batch(
        tokens=_padded([tokens for tokens, _ in images]),
        lengths=torch.tensor(lengths, device=images[0][0].device) if ragged else None,
        relevance=_padded([rows.T for rows in given]).transpose(1, 2) if given else None,
        signals={name: _padded([signals[name] for _, signals in images]) for name in names},
    )


def _padded(rows: list[Tensor]) -> Tensor:
    """Stack tensors along a new first axis, padded at the end; one alone is not copied."""
    return rows[0][None] if len(rows) == 1 else pad_sequence(rows, batch_first=True)
