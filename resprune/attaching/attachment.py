"""Prune the visual tokens of a loaded model.

    with resprune.attach(model, processor, config):
        output = model.generate(**inputs, max_new_tokens=20)

Only two things are put on the model, and taken off again: an instance-level ``generate`` and
forward hooks, on the decoder's layers too where the config prunes inside the LLM. No method of
transformers is replaced.
"""

from __future__ import annotations

import functools
import inspect
import threading
import types
import warnings
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from resprune import backbones, methods
from resprune.attaching.call import Call, CallRecord
from resprune.attaching.compatible import check_fit, check_policy, make_extractor
from resprune.attaching.generate import relative_lengths, with_prompt
from resprune.backbones import Backbone, Prepared
from resprune.budget import BudgetLike
from resprune.config import PruningConfig
from resprune.errors import ResPruneError
from resprune.layers import LayerPruner, check_generate
from resprune.plan import needs_of
from resprune.prompt import PromptReader
from resprune.setting import fixed, overridden
from resprune.textmodel import TextModel

_MARK = "resprune_attachment"
_OPTIONS = ("query", "budget", "alpha", "options")


class Attachment:
    """A pruning config at work on a model; made by ``attach``.

    Attributes:
        model: The model (a PEFT wrapper's inner one).
        backbone: Its backbone.
        config: The pruning config.
        last: What the last call did, or None before the first.
        fallbacks: How often, over all calls, an adaptive policy served its best fixed arm since
            the prompt was unlike those that its predictor was fitted on; counted by image.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        config: PruningConfig | None = None,
        *,
        budget: BudgetLike | None = None,
        seed: int = 0,
        text_model: str | None = None,
    ) -> None:
        if not (isinstance(config, PruningConfig) or (config is None and budget is not None)):
            raise ResPruneError(
                f"config is {type(config).__name__}; pass a PruningConfig, for example "
                "PruningConfig.from_pretrained(folder), or a budget alone"
            )
        self.backbone: Backbone = backbones.for_model(model, processor)
        self.model: Any = self.backbone.model
        self._around = _around(model, self.model)
        self.config = _config(config, budget, self.backbone.family)
        self.last: CallRecord | None = None
        self.fallbacks = 0
        self._seed = seed
        self._one_call = threading.Lock()
        self._hooks: list[Any] = []
        if hasattr(vars(self.model).get("generate"), _MARK):
            raise ResPruneError(
                f"this {type(self.model).__name__} is attached already; call .detach() on the "
                "first attachment (or leave its with block) before attaching again"
            )
        check_fit(self.config, self.backbone)
        made_for = self.config.backbone
        text_model = text_model or (None if made_for is None else made_for.text_model)
        if text_model is not None:
            self.backbone.text_model = TextModel(text_model, self.backbone)
        ruled = any(fixed(policy).inside is not None for policy in self.config.table)
        self._inside = LayerPruner(self.backbone) if ruled else None
        if any("nouns" in needs_of(policy) for policy in self.config.table):
            _ = self.reader  # loaded here, so that no call waits for it
        self._put_on()

    @functools.cached_property
    def reader(self) -> PromptReader:
        """Reads and remembers questions, for policies that read nouns."""
        return PromptReader(self.backbone, make_extractor(self.config.nouns))

    def generate(self, **inputs: Any) -> tuple[Any, CallRecord]:
        """Generate, and give the call's own record with its output.

        Calls from several threads wait for each other, so that no record is another call's.

        Args:
            **inputs: For ``model.generate``, with ``query``, ``budget``, ``alpha`` and ``options``.

        Returns:
            What ``model.generate`` returns, and what this call did.
        """
        with self._one_call:
            output = self.model.generate(**inputs)
            assert self.last is not None
            return output, self.last

    # -- on and off ---------------------------------------------------------------------

    @property
    def attached(self) -> bool:
        """Whether calls of the model are pruned now."""
        return bool(self._hooks)

    def detach(self) -> None:
        """Take everything off the model again; a second call does nothing."""
        if not self._hooks:
            return
        while self._hooks:
            self._hooks.pop().remove()
        if self._inside is not None:
            self._inside.take_off()
        own = vars(self.model)
        if own.get("generate") is self._override:
            del own["generate"]
            if self._shadowed is not None:
                own["generate"] = self._shadowed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def _put_on(self) -> None:
        attachment = self
        original = self.model.generate

        @functools.wraps(original)
        def generate(
            model: Any, inputs: Any = None, generation_config: Any = None, *args: Any, **kwargs: Any
        ) -> Any:
            if not attachment.attached:  # someone wrapped this method and kept it
                return original(inputs, generation_config, *args, **kwargs)
            attachment._check_model(model)
            return attachment._generate(original, inputs, generation_config, *args, **kwargs)

        def before_forward(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return attachment._on_forward(model, args, kwargs)

        setattr(generate, _MARK, True)
        # A deep copy of the model takes both along, bound to the copy, and is refused. So the hook
        # is no method of this object, which would be copied with it.
        self._override = types.MethodType(generate, self.model)
        self._shadowed = vars(self.model).get("generate")
        self._parameters = list(inspect.signature(self.model.forward).parameters)
        # how tokens are chosen depends on their values, and no graph can be made of it
        disable: Any = torch.compiler.disable
        hook = disable(before_forward)
        self._hooks = [
            module.register_forward_pre_hook(hook, with_kwargs=True)
            for module in (self.model, *self._around)
        ]
        vars(self.model)["generate"] = self._override
        if self._inside is not None:
            self._inside.put_on()

    def _check_model(self, model: Any) -> None:
        if model is not self.model and all(model is not outer for outer in self._around):
            raise ResPruneError(
                "this is a copy of an attached model and still points to the first one; detach "
                "before copying, then attach the copy"
            )

    # -- calls --------------------------------------------------------------------------

    def _generate(
        self, original: Any, inputs: Any, generation_config: Any, *args: Any, **kwargs: Any
    ) -> Any:
        options = {name: kwargs.pop(name, None) for name in _OPTIONS}
        if inputs is not None and kwargs.get("input_ids") is None:
            inputs, kwargs["input_ids"] = None, inputs
        call = self._start(kwargs, **options)
        if call is None:
            return original(inputs, generation_config, *args, **kwargs)
        if fixed(call.policy).inside is not None:
            check_generate(generation_config or self.model.generation_config, kwargs)
        prepared = self._run(call, kwargs, padding_side="left")
        input_ids = kwargs["input_ids"]
        rest = self._without_prompt(kwargs)
        rest, generation_config = relative_lengths(
            rest, generation_config, self.model.generation_config, input_ids.shape[1]
        )
        rest.update(prepared.kwargs)
        rest.pop("labels", None)
        if call.policy.positions == "keep":
            # without a cache, positions with gaps would be taken for packed sequences
            if generation_config is None:
                rest["use_cache"] = True
            else:
                rest.pop("use_cache", None)
                generation_config.use_cache = True  # a copy by now
        with call.timed("generate_ms"):
            output = original(None, generation_config, *args, **rest)
        return with_prompt(output, input_ids, prepared.kwargs["input_ids"].shape[1])

    def _on_forward(
        self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._check_model(model)
        kwargs = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        options = {name: kwargs.pop(name, None) for name in _OPTIONS}
        inside_generate = kwargs.get("mm_encoder_outputs") or kwargs.get("past_key_values")
        if inside_generate is not None and not self._has_images(kwargs):
            return (), kwargs
        call = self._start(kwargs, **options)
        if call is None:
            return (), kwargs
        if fixed(call.policy).inside is not None and kwargs.get("labels") is not None:
            raise ResPruneError(
                "labels with a method inside the LLM: it would choose by the answer's own tokens; "
                "run the prompt alone and then the answer with its cache, or use a method before "
                "the LLM"
            )
        side = _padding_side(kwargs.get("attention_mask"))
        prepared = self._run(call, kwargs, padding_side=side)
        return (), {**self._without_prompt(kwargs), **prepared.kwargs}

    def _run(self, call: Call, kwargs: Mapping[str, Any], padding_side: str) -> Prepared:
        prepared, self.last = call.run(kwargs, padding_side=padding_side)
        self.fallbacks += sum(self.last.outside)
        return prepared

    def _start(
        self,
        kwargs: Mapping[str, Any],
        query: str | Sequence[str | None] | None,
        budget: BudgetLike | None,
        alpha: float | None,
        options: Mapping[str, Any] | None,
    ) -> Call | None:
        """Check a call; None when it has nothing to prune."""
        if self._inside is not None:
            self._inside.forget()  # of a call that failed on its way
        policy = overridden(self.config.policy(budget), _options(alpha, options))
        check_policy(policy, self.backbone)
        passes = CallRecord(False, policy)
        if methods.get(policy.method).stage == "none":
            self.last = passes
            return None
        if self.backbone.has_video(kwargs):
            warnings.warn(
                "this call has a video, which passes through unpruned with all its images",
                stacklevel=4,
            )
            self.last = passes
            return None
        if not self._has_images(kwargs):
            ids = kwargs.get("input_ids")
            if _filled(kwargs.get("past_key_values")) and self._names_images(ids):
                raise ResPruneError(
                    "input_ids name images that an earlier call pruned into this cache, so ids and "
                    "cache do not match; start from an empty cache with the images, or detach"
                )
            self.last = passes
            return None
        if kwargs.get("input_ids") is None:
            raise ResPruneError(
                "an attached model needs input_ids beside the images (it got inputs_embeds); "
                "pass the processor's output as it is"
            )
        if _filled(kwargs.get("past_key_values")):
            raise ResPruneError(
                "images together with a filled cache cannot be pruned: the cache holds a prompt "
                "of another length; start from an empty cache, or detach"
            )
        for name in ("vision_feature_layer", "vision_feature_select_strategy"):
            if kwargs.get(name) is not None:
                raise ResPruneError(
                    f"{name} cannot be set per call on an attached model; set it in model.config "
                    "before attaching"
                )
        reader = self.reader if "nouns" in needs_of(policy) else None
        inside = self._inside if fixed(policy).inside is not None else None
        return Call(self.backbone, policy, self.config.predictor, reader, query, self._seed, inside)

    def _has_images(self, kwargs: Mapping[str, Any]) -> bool:
        images = kwargs.get(self.backbone.image_inputs[0])
        return images is not None and len(images) > 0

    def _names_images(self, ids: Tensor | None) -> bool:
        return ids is not None and bool((ids == self.backbone.image_token_id).any())

    def _without_prompt(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        gone = {*self.backbone.image_inputs, "input_ids", "attention_mask", "position_ids"}
        return {name: value for name, value in kwargs.items() if name not in gone}


def attach(
    model: Any,
    processor: Any,
    config: PruningConfig | None = None,
    *,
    budget: BudgetLike | None = None,
    seed: int = 0,
    text_model: str | None = None,
) -> Attachment:
    """Prune the visual tokens of a loaded model from now on.

    It attaches at once; ``with`` or ``.detach()`` undoes it, also after an exception. While
    attached, ``model.generate`` and ``model(...)`` take ``query=`` (the question; one string, or
    one a row, where None recovers it from the ids), ``budget=`` (another policy of the config's
    table) and ``options=`` (the method's own, such as ``{"alpha": 0.5}``, for which ``alpha=`` is
    short; an adaptive policy then serves its fallback arm). ``generate`` puts the original prompt
    in front of its output; logits and loss of ``model(...)`` are those of the shortened sequence.
    Calls without an image pass through, and so do videos, with a warning. The image part runs
    without gradient. Where a method drops tokens inside the LLM, logits of what it dropped are
    meaningless, and caches, hidden states and attentions differ in length by layer.

    Args:
        model: A loaded model of a supported family, or what PEFT or ``torch.compile`` made of one.
        processor: Its processor.
        config: What to keep and how to choose it; None takes the family's defaults
            (``PruningConfig.paper_default``) at ``budget``.
        budget: Budget of calls that name none; one of the config's table.
        seed: Seed of a method that is random.
        text_model: Folder or hub id of the CLIP checkpoint that LLaVA-1.5's vision tower is from,
            for ``cdpruner`` as published; the config's own if left out. Without one noun relevance
            stands in.

    Returns:
        The handle; its ``last`` says what the last call did, and ``fallbacks`` how many prompts
        were unlike those that an adaptive policy was fitted on.

    Raises:
        UnsupportedModelError: No backbone serves the model, or it lacks a signal.
        ConfigError: The config was made for another family or width, pins another noun pipeline,
            has no such budget, a method that acts before the vision tower, or one inside the LLM
            that this decoder or its positions do not allow.
        ResPruneError: The model is attached already.
    """
    return Attachment(model, processor, config, budget=budget, seed=seed, text_model=text_model)


def _config(config: PruningConfig | None, budget: BudgetLike | None, family: str) -> PruningConfig:
    if config is None:
        assert budget is not None
        return PruningConfig.paper_default(family, budget)
    if budget is None:
        return config
    return config.model_copy(update={"default": config.policy(budget).budget})


def _options(alpha: float | None, options: Mapping[str, Any] | None) -> dict[str, Any]:
    if options is not None and not isinstance(options, Mapping):
        raise ResPruneError(f"options is {options!r}; give the method's options by name")
    given = dict(options or {})
    if alpha is not None:
        if "alpha" in given:
            raise ResPruneError("alpha is given twice, by itself and in options; give it once")
        given["alpha"] = alpha
    return given


def _around(model: Any, inner: Any) -> list[Any]:
    """Modules between a PEFT wrapper and its model: some call its ``forward``, past its hooks."""
    outer = getattr(model, "base_model", None) if hasattr(model, "get_base_model") else None
    return [outer] if isinstance(outer, torch.nn.Module) and outer is not inner else []


def _padding_side(mask: Tensor | None) -> str:
    """The side on which a batch is padded; left where it is not."""
    if mask is None or mask.ndim != 2 or not len(mask):
        return "left"
    ends_padded = bool((mask[:, -1] == 0).any()) and not bool((mask[:, 0] == 0).any())
    return "right" if ends_padded else "left"


def _filled(cache: Any) -> bool:
    length = getattr(cache, "get_seq_length", None)
    return length is not None and int(length()) > 0
