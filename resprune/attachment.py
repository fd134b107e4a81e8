"""Prune the visual tokens of a loaded model.

    with resprune.attach(model, processor, config):
        output = model.generate(**inputs, max_new_tokens=20)

Only two things are put on the model, and taken off again: an instance-level ``generate`` and a
forward pre-hook. No method of transformers is replaced.
"""

from __future__ import annotations

import functools
import inspect
import time
import types
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from resprune import backbones
from resprune.backbones import Backbone, Prepared
from resprune.config import BudgetEntry, PruningConfig
from resprune.errors import ResPruneError
from resprune.fit import check_fit, make_extractor
from resprune.generation import relative_lengths, with_prompt
from resprune.prepare import IGNORED_LABEL, image_rows
from resprune.selection import (
    ImageSelection,
    Prompt,
    PromptReader,
    check_alpha,
    needed_signals,
    select,
)

_MARK = "resprune_attachment"
_OPTIONS = ("query", "budget", "alpha")


@dataclass(frozen=True)
class CallRecord:
    """What the last call through an attached model did.

    Attributes:
        pruned: False when the call passed through (no image in it, or a video).
        budget: The budget used, a count or a ratio.
        seed_strategy: The seed strategy used.
        questions: The question of each row; empty for a row without an image.
        nouns: The nouns found in it, one list a row.
        kept_positions: Columns of the original row that were kept, one (n_b,) tensor a row.
        next_positions: Position id of the token after each row, (B,) on the CPU: for decode loops
            that pass a cache and their own position ids.
        rows: The row of each image.
        kept: Sorted kept indices of each image, (k_i,) on the CPU.
        order: The same in pick order.
        visual_tokens: Visual tokens T_i of each image before pruning.
        grids: Rows and columns of each image's tokens.
        alphas: The alpha used for each image.
        timings: Milliseconds by step: ``read_ms``, ``encode_ms``, ``select_ms``, ``prepare_ms``
            and, after ``generate``, ``generate_ms`` (the language model with its decoding).
    """

    pruned: bool
    budget: int | float
    seed_strategy: str
    questions: list[str] = field(default_factory=list)
    nouns: list[list[str]] = field(default_factory=list)
    kept_positions: list[Tensor] = field(default_factory=list)
    next_positions: Tensor | None = None
    rows: list[int] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    order: list[Tensor] = field(default_factory=list)
    visual_tokens: list[int] = field(default_factory=list)
    grids: list[tuple[int, int]] = field(default_factory=list)
    alphas: list[float] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)


class Attachment:
    """A pruning config at work on a model; made by ``attach``.

    Attributes:
        model: The model (a PEFT wrapper's inner one).
        backbone: Its backbone.
        config: The pruning config.
        reader: Reads and remembers questions.
        last: What the last call did, or None before the first.
    """

    def __init__(self, model: Any, processor: Any, config: PruningConfig, *, seed: int = 0) -> None:
        if not isinstance(config, PruningConfig):
            raise ResPruneError(
                f"config is {type(config).__name__}; pass a PruningConfig, for example "
                "PruningConfig.from_pretrained(folder)"
            )
        self.backbone: Backbone = backbones.for_model(model, processor)
        self.model: Any = self.backbone.model
        self._around = _around(model, self.model)
        self.config = config
        self.last: CallRecord | None = None
        self._seed = seed
        self._hooks: list[Any] = []
        if hasattr(vars(self.model).get("generate"), _MARK):
            raise ResPruneError(
                f"this {type(self.model).__name__} is attached already; call .detach() on the "
                "first attachment (or leave its with block) before attaching again"
            )
        check_fit(config, self.backbone)
        self.reader = PromptReader(self.backbone, make_extractor(config.nouns))
        self._put_on()

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
        pruning = self._start(kwargs, **options)
        if pruning is None:
            return original(inputs, generation_config, *args, **kwargs)
        prepared = pruning.run(kwargs, padding_side="left")
        input_ids = kwargs["input_ids"]
        rest = self._without_prompt(kwargs)
        rest, generation_config = relative_lengths(
            rest, generation_config, self.model.generation_config, input_ids.shape[1]
        )
        rest.update(prepared.kwargs)
        rest.pop("labels", None)
        if self.config.positions == "keep":
            # without a cache, positions with gaps would be taken for packed sequences
            if generation_config is None:
                rest["use_cache"] = True
            else:
                rest.pop("use_cache", None)
                generation_config.use_cache = True  # a copy by now
        with pruning.timed("generate_ms"):
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
        pruning = self._start(kwargs, **options)
        if pruning is None:
            return (), kwargs
        prepared = pruning.run(kwargs, padding_side=_padding_side(kwargs.get("attention_mask")))
        return (), {**self._without_prompt(kwargs), **prepared.kwargs}

    def _start(
        self,
        kwargs: Mapping[str, Any],
        query: str | Sequence[str | None] | None,
        budget: int | float | None,
        alpha: float | None,
    ) -> _Pruning | None:
        """Check a call; None when it has nothing to prune."""
        entry = self.config.entry(budget)
        fixed = None if alpha is None else check_alpha(alpha)
        if self.backbone.has_video(kwargs):
            warnings.warn(
                "this call has a video, which passes through unpruned with all its images",
                stacklevel=4,
            )
            self.last = CallRecord(False, entry.budget, entry.seed_strategy)
            return None
        if not self._has_images(kwargs):
            ids = kwargs.get("input_ids")
            if _filled(kwargs.get("past_key_values")) and self._names_images(ids):
                raise ResPruneError(
                    "input_ids name images that an earlier call pruned into this cache, so ids and "
                    "cache do not match; start from an empty cache with the images, or detach"
                )
            self.last = CallRecord(False, entry.budget, entry.seed_strategy)
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
        return _Pruning(self, entry, fixed, query)

    def _has_images(self, kwargs: Mapping[str, Any]) -> bool:
        images = kwargs.get(self.backbone.image_inputs[0])
        return images is not None and len(images) > 0

    def _names_images(self, ids: Tensor | None) -> bool:
        return ids is not None and bool((ids == self.backbone.image_token_id).any())

    def _without_prompt(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        gone = {*self.backbone.image_inputs, "input_ids", "attention_mask", "position_ids"}
        return {name: value for name, value in kwargs.items() if name not in gone}


class _Pruning:
    """One call: its steps in order, timed, and their record."""

    def __init__(
        self,
        attachment: Attachment,
        entry: BudgetEntry,
        alpha: float | None,
        query: str | Sequence[str | None] | None,
    ) -> None:
        self._attachment = attachment
        self._backbone = attachment.backbone
        self._config = attachment.config
        self._entry = entry
        self._alpha = alpha
        self._query = query
        self._timings: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._timings[name] = (time.perf_counter() - started) * 1e3

    def run(self, kwargs: Mapping[str, Any], padding_side: str) -> Prepared:
        backbone, config = self._backbone, self._config
        ids: Tensor = kwargs["input_ids"]
        rows = image_rows(ids, backbone.image_lengths(kwargs), backbone.image_token_id)
        with self.timed("read_ms"):
            prompts = self._prompts(ids, kwargs.get("labels"), set(rows))
        with self.timed("encode_ms"):
            wanted = needed_signals(self._entry, config, backbone.seed_signals)
            visual = backbone.encode(kwargs, signals=wanted)
        with self.timed("select_ms"):
            chosen: list[ImageSelection] = []
            for image, row in enumerate(rows):
                seed = self._image_seed(prompts[row].question, image - rows.index(row))
                chosen.append(
                    select(visual[image], prompts[row], self._entry, config, self._alpha, seed=seed)
                )
            kept = [selection.kept.cpu() for selection in chosen]
        with self.timed("prepare_ms"):
            prepared = backbone.prepare(
                kwargs,
                visual,
                kept,
                positions=config.positions,
                padding_side=padding_side,
                features=[selection.features for selection in chosen],
            )
        backbone.before_call(prepared)
        self._attachment.last = CallRecord(
            pruned=True,
            budget=self._entry.budget,
            seed_strategy=self._entry.seed_strategy,
            questions=[prompts[row].question if row in prompts else "" for row in range(len(ids))],
            nouns=[list(prompts[row].nouns) if row in prompts else [] for row in range(len(ids))],
            kept_positions=prepared.kept_positions,
            next_positions=prepared.next_positions,
            rows=rows,
            kept=kept,
            order=[selection.order.cpu() for selection in chosen],
            visual_tokens=[len(image.tokens) for image in visual],
            grids=[image.grid for image in visual],
            alphas=[selection.alpha for selection in chosen],
            timings=self._timings,
        )
        return prepared

    def _prompts(self, ids: Tensor, labels: Tensor | None, rows: set[int]) -> dict[int, Prompt]:
        given = _queries(self._query, len(ids))
        prompts = {}
        for row in sorted(rows):
            question = given[row]
            if question is None:
                question = self._recover(ids[row], None if labels is None else labels[row])
            prompts[row] = self._attachment.reader.read(question)
        return prompts

    def _recover(self, ids: Tensor, labels: Tensor | None) -> str:
        """The question in a row; what the labels supervise may be an answer and is not read."""
        backbone = self._backbone
        if labels is None:
            return backbone.question(ids)
        asked = _before_answer(ids, labels)
        reaches_image = not len(asked) or int(asked[-1]) == backbone.image_token_id
        # everything is supervised, question and all: only the template can tell them apart
        return backbone.question(ids, closed=True) if reaches_image else backbone.question(asked)

    def _image_seed(self, question: str, image: int) -> int:
        """A seed of its own for each question and image, whatever the batch."""
        return zlib.crc32(f"{self._attachment._seed}/{image}/{question}".encode())


def attach(model: Any, processor: Any, config: PruningConfig, *, seed: int = 0) -> Attachment:
    """Prune the visual tokens of a loaded model from now on.

    It attaches at once; ``with`` or ``.detach()`` undoes it, also after an exception. While
    attached, ``model.generate`` and ``model(...)`` take ``query=`` (the question; one string, or
    one a row, where None recovers it from the ids), ``budget=`` (another entry of the config's
    table) and ``alpha=``. ``generate`` puts the original prompt in front of its output; logits and
    loss of ``model(...)`` are those of the shortened sequence. Calls without an image pass through,
    and so do videos, with a warning. The image part runs without gradient.

    Args:
        model: A loaded model of a supported family, or what PEFT or ``torch.compile`` made of one.
        processor: Its processor.
        config: What to keep and how to choose it.
        seed: Seed of a method that is random.

    Returns:
        The handle; its ``last`` says what the last call did.

    Raises:
        UnsupportedModelError: No backbone serves the model, or it lacks a signal.
        ConfigError: The config was made for another family or width, or pins another noun
            pipeline.
        ResPruneError: The model is attached already.
    """
    return Attachment(model, processor, config, seed=seed)


def _around(model: Any, inner: Any) -> list[Any]:
    """Modules between a PEFT wrapper and its model: some call its ``forward``, past its hooks."""
    outer = getattr(model, "base_model", None) if hasattr(model, "get_base_model") else None
    return [outer] if isinstance(outer, torch.nn.Module) and outer is not inner else []


def _queries(query: str | Sequence[str | None] | None, rows: int) -> list[str | None]:
    if query is None:
        return [None] * rows
    given: list[str | None] = [query] * rows if isinstance(query, str) else list(query)
    if len(given) != rows:
        raise ResPruneError(f"query has {len(given)} entries for {rows} rows; give one each")
    for row, text in enumerate(given):
        if text is not None and not (isinstance(text, str) and text.strip()):
            raise ResPruneError(
                f"query of row {row} is {text!r}; give the question, or None to recover it from "
                "the ids"
            )
    return given


def _before_answer(ids: Tensor, labels: Tensor) -> Tensor:
    """Cut a row before its last supervised run."""
    if labels.shape != ids.shape:
        raise ResPruneError(
            f"labels of a row have shape {tuple(labels.shape)} and its input_ids "
            f"{tuple(ids.shape)}; give one label a token"
        )
    supervised = (labels != IGNORED_LABEL).nonzero()[:, 0]
    if not len(supervised):
        return ids
    gaps = (supervised.diff() != 1).nonzero()[:, 0]
    start = int(supervised[int(gaps[-1]) + 1 if len(gaps) else 0])
    return ids[:start]


def _padding_side(mask: Tensor | None) -> str:
    """The side on which a batch is padded; left where it is not."""
    if mask is None or mask.ndim != 2 or not len(mask):
        return "left"
    ends_padded = bool((mask[:, -1] == 0).any()) and not bool((mask[:, 0] == 0).any())
    return "right" if ends_padded else "left"


def _filled(cache: Any) -> bool:
    length = getattr(cache, "get_seq_length", None)
    return length is not None and int(length()) > 0
