"""The engine: what each image of a step keeps."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from resprune.backbones import VisualTokens, WordVectors
from resprune.config import PruningConfig
from resprune.errors import ConfigError, ResPruneError, UnsupportedModelError
from resprune.plan import Plan, choose_setting, cosines_of, needs_of, plan_images, signals_of
from resprune.prompt import Prompt
from resprune.serving.vllm.settings import digest
from resprune.serving.vllm.wire import short, unpack_question
from resprune.setting import Adaptive, Setting, fixed

_REMEMBERED = 1024
_SEED = 0


@dataclass
class Spent:
    """What an engine has done so far.

    Attributes:
        images: Images encoded.
        kept: Visual tokens that they kept.
        seen: Visual tokens that they had.
        outside: Images whose prompt is unlike those that an adaptive policy was fitted on.
        failed: Images from which no choice could be made, such as those with features that are
            not finite; they keep what ``uniform`` does.
        why: What was wrong with the last of them.
        encoding: Seconds in the vision tower, the device not waited for.
        selecting: Seconds in the selection, with what it waited for.
    """

    images: int = 0
    kept: int = 0
    seen: int = 0
    outside: int = 0
    failed: int = 0
    why: str = ""
    encoding: float = 0.0
    selecting: float = 0.0


class Selecting:
    """Plans images under a pruning config, as ``resprune.attach`` does.

    Args:
        config: The pruning config.
        vectors: The LLM's input embeddings.
        offered: Signals that the vision tower gives.
    """

    def __init__(
        self, config: PruningConfig, vectors: WordVectors, offered: Collection[str]
    ) -> None:
        self.config = config
        self.spent = Spent()
        self._vectors = vectors
        self._offered = offered
        self._policies = {short(digest(config, policy)): policy for policy in config.table}
        self._prompt = lru_cache(_REMEMBERED)(self._make_prompt)

    def policies(self, chosen: Tensor) -> list[Setting | Adaptive]:
        """Return the policy of each image.

        Args:
            chosen: What ``short`` makes of each digest, shape (n,).

        Raises:
            ResPruneError: The front end has another config than this engine.
        """
        try:
            return [self._policies[each] for each in chosen.tolist()]
        except KeyError:
            raise ResPruneError(
                "front end and engine have different pruning configs: the folder changed while "
                "vLLM started; start it again"
            ) from None

    def signals(self, policies: Sequence[Setting | Adaptive]) -> frozenset[str]:
        """Return the signals to record for some images."""
        needs = frozenset[str]().union(*(needs_of(policy) for policy in policies))
        return signals_of(needs, self._offered)

    def plans(
        self,
        images: Sequence[VisualTokens],
        policies: Sequence[Setting | Adaptive],
        asked: Sequence[bytes],
    ) -> list[Plan]:
        """Plan the images of one step.

        What ``attach`` raises for one image must not stop a server with all its requests: such an
        image keeps what ``uniform`` does, as many tokens as its placeholders.

        Args:
            images: The encoded images.
            policies: The policy of each.
            asked: The question about each, as ``pack_question`` writes it.

        Returns:
            One plan an image.

        Raises:
            ConfigError: The config is at fault, not an image.
            UnsupportedModelError: So is the model.
        """
        started = time.perf_counter()
        try:
            plans, outside = self._chosen(images, policies, asked)
        except (ConfigError, UnsupportedModelError):
            raise
        except ResPruneError as error:
            if len(images) > 1:
                each = zip(images, policies, asked, strict=True)
                return [self.plans([image], [own], [text])[0] for image, own, text in each]
            plans, outside = [blind(images[0], policies[0])], 0
            self.spent.failed, self.spent.why = self.spent.failed + 1, str(error)
        self.spent.images += len(images)
        self.spent.kept += sum(len(plan.kept) for plan in plans)
        self.spent.seen += sum(len(image.tokens) for image in images)
        self.spent.outside += outside
        self.spent.selecting += time.perf_counter() - started
        return plans

    def _chosen(
        self,
        images: Sequence[VisualTokens],
        policies: Sequence[Setting | Adaptive],
        asked: Sequence[bytes],
    ) -> tuple[list[Plan], int]:
        """Plans, and how many prompts are unlike those fitted."""
        prompts, cosines, settings, keys, unlike = [], [], [], [], 0
        for image, policy, packed in zip(images, policies, asked, strict=True):
            prompt = self._prompt(packed)
            reads = "nouns" in needs_of(policy)
            seen = cosines_of(image, prompt) if reads else None
            on_cpu = seen.cpu() if seen is not None and isinstance(policy, Adaptive) else seen
            setting, outside = choose_setting(policy, self.config.predictor, prompt, image, on_cpu)
            unlike += outside
            prompts.append(prompt if reads else None)
            cosines.append(seen)
            settings.append(setting)
            keys.append(f"{_SEED}/0/{prompt.question}")  # as attach names a prompt's only image
        return plan_images(images, prompts, settings, keys, cosines), unlike

    def _make_prompt(self, packed: bytes) -> Prompt:
        return Prompt.of(unpack_question(packed), self._vectors)


def blind(image: VisualTokens, policy: Setting | Adaptive) -> Plan:
    """Return a plan that keeps as many tokens as a policy does without looking at any."""
    setting = Setting.of("uniform", policy.budget, positions=fixed(policy).positions)
    unseen = VisualTokens(torch.zeros_like(image.tokens))
    return plan_images([unseen], [None], [setting], [""])[0]


def bytes_of(fields: Any) -> list[bytes]:
    """Return the bytes of each image's question, however vLLM batched them."""
    return [bytes(field.to("cpu").numpy()) for field in fields]
