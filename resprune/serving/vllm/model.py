"""The engine's side of a served model: encode as vLLM does, then keep what the config says."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from resprune.backbones import VisualTokens, WordVectors
from resprune.errors import ResPruneError
from resprune.plan import Plan
from resprune.serving.vllm.attention import agreed
from resprune.serving.vllm.families import FAMILIES
from resprune.serving.vllm.processor import PROCESSOR_SEAM
from resprune.serving.vllm.selecting import Selecting, bytes_of
from resprune.serving.vllm.settings import checked_config, named
from resprune.serving.vllm.wire import ASKED, CHOSEN
from resprune.setting import Adaptive, Setting

_LOG_EVERY = 60.0  # seconds
_Model = TypeVar("_Model", bound="PrunedModel")


@dataclass(frozen=True)
class Encoded:
    """One image as vLLM would hand it to the LLM.

    Attributes:
        visual: Its visual tokens.
        placeholders: What fills its placeholders, shape (P, d): the visual tokens, and newline
            tokens where a family has them.
        places: Where the visual tokens lie among them, shape (T,); None where they are all.
    """

    visual: VisualTokens
    placeholders: Tensor
    places: Tensor | None = None


class PrunedModel:
    """Stands before vLLM's own class of a family; a subclass names it and encodes.

    Where ``hf_overrides`` names no pruning config, vLLM's own class is made in its place.

    Attributes:
        own: vLLM's own class.
    """

    own: ClassVar[Any]
    supports_tower_connector_lora = False  # it counts on as many embeddings as the tower gives

    def __new__(cls, *, vllm_config: Any, prefix: str = "") -> Any:
        """Make vLLM's own model where no pruning config is named."""
        if not named(vllm_config.model_config.hf_config):
            return cls.own(vllm_config=vllm_config, prefix=prefix)
        return super().__new__(cls)

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        hf_config = vllm_config.model_config.hf_config
        config = checked_config(hf_config, self.own.__name__)
        family = FAMILIES[self.own.__name__]
        text: Any = self
        self._selecting = Selecting(
            config,
            WordVectors(
                text.get_language_model().model.embed_tokens, hf_config.text_config.vocab_size
            ),
            family.signals(hf_config),
        )
        # vLLM counts kept tokens, and so puts many more images into a step than it would whole ones
        self._most = int(vllm_config.scheduler_config.max_num_batched_tokens)
        self._logged = time.monotonic()
        self._say(
            f"ResPrune active: {_kept(config.policy(), family.visual_tokens(hf_config))}, "
            f"{_how(config.policy())}"
        )

    @property
    def reads_attention(self) -> bool:
        """Whether a policy of the config reads a signal of the vision tower."""
        return bool(self._selecting.signals(self._selecting.config.table))

    @abstractmethod
    def counts(self, inputs: dict[str, Any]) -> list[int]:
        """Return the visual tokens of each image of a step, before pruning.

        Args:
            inputs: vLLM's inputs of the images.
        """

    def part(self, inputs: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
        """Return the inputs of some images of a step.

        Args:
            inputs: vLLM's inputs of the images.
            start: The first one.
            stop: The one after the last.
        """
        return {name: value[start:stop] for name, value in inputs.items()}

    @abstractmethod
    def encode(self, inputs: dict[str, Any], signals: Collection[str]) -> list[Encoded]:
        """Run vision tower and projector as vLLM does.

        Args:
            inputs: vLLM's inputs of the images of a step.
            signals: Signals to record on the way.

        Returns:
            One entry an image.
        """

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Encode the images of a step and return what each hands to the LLM, (k, d) each."""
        asked, chosen = kwargs.pop(ASKED, None), kwargs.pop(CHOSEN, None)
        if chosen is None:
            raise ResPruneError("images came past the processor of this package; serve it whole")
        policies = self._selecting.policies(chosen.flatten())
        questions, rows = bytes_of(asked), list[Tensor]()
        with torch.no_grad():
            for start, stop in groups(self.counts(kwargs), self._most):
                part = self.part(kwargs, start, stop)
                rows += self._embed(part, policies[start:stop], questions[start:stop])
        self._log()
        return rows

    def _embed(
        self, inputs: dict[str, Any], policies: Sequence[Setting | Adaptive], asked: Sequence[bytes]
    ) -> list[Tensor]:
        started = time.perf_counter()
        encoded = self.encode(inputs, self._selecting.signals(policies))
        self._selecting.spent.encoding += time.perf_counter() - started
        plans = self._plans(encoded, policies, asked)
        return [self.entering(image, plan) for image, plan in zip(encoded, plans, strict=True)]

    def _plans(
        self,
        encoded: Sequence[Encoded],
        policies: Sequence[Setting | Adaptive],
        asked: Sequence[bytes],
    ) -> list[Plan]:
        plans = self._selecting.plans([image.visual for image in encoded], policies, asked)
        kept = agreed([plan.kept for plan in plans])
        return [replace(plan, kept=each) for plan, each in zip(plans, kept, strict=True)]

    def entering(self, image: Encoded, plan: Plan) -> Tensor:
        """Return what fills an image's kept placeholders, shape (k, d).

        Args:
            image: The image.
            plan: What it keeps.
        """
        tokens = image.visual.tokens
        if len(plan.kept) < len(tokens):
            if plan.features is not None:
                return plan.features.to(tokens.dtype)
            return tokens.index_select(0, plan.kept.to(tokens.device))
        if plan.features is None:
            return image.placeholders
        features = plan.features.to(tokens.dtype)
        if image.places is None:
            return features
        return image.placeholders.index_copy(0, image.places.to(tokens.device), features)

    def _log(self) -> None:
        """Say, once a minute, how much was kept and what it took."""
        now = time.monotonic()
        if now - self._logged < _LOG_EVERY:
            return
        self._logged, spent = now, self._selecting.spent
        self._say(
            f"ResPrune: {spent.images} images encoded, {spent.kept} of {spent.seen} visual tokens "
            f"kept, {1e3 * spent.selecting / spent.images:.1f} ms selecting an image, "
            f"{spent.outside} prompts unlike those fitted"
            + (f", {spent.failed} evenly spaced: {spent.why}" if spent.failed else "")
        )

    @staticmethod
    def _say(text: str) -> None:
        from vllm.distributed import get_tensor_model_parallel_rank
        from vllm.logger import init_logger

        if get_tensor_model_parallel_rank() == 0:
            init_logger("vllm.resprune").info("%s", text)


def stands_for(
    own: Any, processor: Any, *, info: Any = None, seam: Sequence[str] = ()
) -> Callable[[type[_Model]], type[_Model]]:
    """Let a class stand for vLLM's own, and its processor for vLLM's, where a config is named.

    Args:
        own: vLLM's own class.
        processor: The pruning processor, a subclass of vLLM's own.
        info: What takes the place of vLLM's own processing info.
        seam: Methods of ``own`` that the class replaces or calls, beside ``embed_multimodal``.

    Returns:
        A class decorator.

    Raises:
        AttributeError: vLLM has a method no more that this package replaces.
    """
    from vllm.multimodal import MULTIMODAL_REGISTRY

    check_seam(own, ("embed_multimodal", *seam))
    check_seam(processor.__bases__[-1], PROCESSOR_SEAM)  # the one that it stands before
    factory = own._processor_factory

    def make(found: Any, dummy_inputs: Any) -> Any:
        kind = processor if named(found.get_hf_config()) else factory.processor
        return kind(found, dummy_inputs)

    def decorate(cls: type[_Model]) -> type[_Model]:
        cls.own, processor.architecture = own, own.__name__
        registered = MULTIMODAL_REGISTRY.register_processor(
            make, info=info or factory.info, dummy_inputs=factory.dummy_inputs
        )
        found: type[_Model] = registered(cls)
        return found

    return decorate


def check_seam(theirs: Any, names: Sequence[str]) -> None:
    """Check that a class of vLLM still has the methods that this package replaces or calls.

    Raises:
        AttributeError: One is gone; without it images would be taken for whole ones.
    """
    gone = [name for name in names if not callable(getattr(theirs, name, None))]
    if gone:
        raise AttributeError(f"{theirs.__name__} has no {', '.join(gone)}")


def groups(counts: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Cut the images of a step into groups that the tower takes at once.

    Args:
        counts: Visual tokens of each image.
        most: Visual tokens of a group; a larger image is a group of its own.

    Returns:
        First image and the one after the last, of each group.
    """
    found, start, total = [], 0, 0
    for place, count in enumerate(counts):
        if place > start and total + count > most:
            found.append((start, place))
            start, total = place, 0
        total += count
    return [*found, (start, len(counts))] if counts else []


def _kept(policy: Setting | Adaptive, tokens: int | None) -> str:
    if tokens is not None:
        return f"{policy.budget.limit(tokens)} of {tokens} tokens an image"
    return f"budget {policy.budget} of each image's tokens"


def _how(policy: Setting | Adaptive) -> str:
    if isinstance(policy, Adaptive):
        return f"adaptive {' and '.join(_varied(policy))} ({policy.method})"
    options = policy.options.model_dump(mode="json")
    chosen = [f"{name} {options[name]}" for name in ("alpha", "seed_strategy") if name in options]
    return ", ".join([policy.method, *chosen])


def _varied(policy: Adaptive) -> list[str]:
    """Names of the options that differ between arms."""
    dumps = [arm.options.model_dump(mode="json") for arm in policy.arms]
    return [name for name in dumps[0] if any(each[name] != dumps[0][name] for each in dumps)]
