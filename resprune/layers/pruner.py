"""Hooks that prune inside the LLM of an unmodified transformers model.

Layer 0 keeps the whole prompt, so that lengths, positions and masks of ``generate`` stay those of
what entered the LLM; layers from a drop on run on fewer rows and hold a shorter KV cache.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from resprune.backbones import Backbone
from resprune.errors import ResPruneError
from resprune.layers.left import Left
from resprune.layers.prefill import Job, Prefill, PrunedPrompt, Step
from resprune.layers.support import check_positions, decoder_of
from resprune.options import Positions
from resprune.plan import Rule

_IMAGES = ("pixel_values", "mm_encoder_outputs")
# not by placeholders in the ids: a model may answer with that very token


class _Local(threading.local):
    """What one thread is at."""

    job: Job | None = None
    seen: tuple[Tensor | None, Any] | None = None
    """ids and mask of a call with images"""
    run: Prefill | Step | None = None


class LayerPruner:
    """Prunes prompts inside the LLM while its ``with`` block is open.

        with LayerPruner(backbone) as pruner, pruner.prefill(rules, "keep") as left:
            model.generate(**inputs)

    Calls that are told nothing run as they would without it; tokens behind a pruned prompt follow
    it wherever they are decoded. Several threads may call the model at once.

    Args:
        backbone: The model.

    Raises:
        UnsupportedModelError: A decoder that is not built like LLaMA's.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._text = decoder_of(backbone)
        self._base = backbone.model.base_model
        self._names = list(inspect.signature(self._base.forward).parameters)
        self._hooks: list[Any] = []
        self._local = _Local()
        self._prompts: weakref.WeakKeyDictionary[Any, PrunedPrompt] = weakref.WeakKeyDictionary()

    # -- on and off ---------------------------------------------------------------------

    def put_on(self) -> None:
        """Put the hooks on the model."""
        pruner = self

        # no methods: a deep copy of the model would copy their object with it
        def on_base(module: Any, args: Any, kwargs: Any) -> None:
            pruner._on_base(args, kwargs)

        def on_text(module: Any, args: Any, kwargs: Any) -> None:
            pruner._on_text(kwargs)

        def on_layer(i: int) -> Any:
            return lambda module, args, kwargs: pruner._on_layer(i, args, kwargs)

        def after_last(module: Any, args: Any, output: Any) -> Any:
            run, pruner._local.run = pruner._local.run, None
            return run.after(output) if isinstance(run, Prefill) else None

        layers = self._text.layers
        before = [(self._base, on_base), (self._text, on_text)]
        before += [(layer, on_layer(i)) for i, layer in enumerate(layers)]
        disable: Any = torch.compiler.disable  # choices depend on values: no graph can be made
        self._hooks = [
            module.register_forward_pre_hook(disable(hook), with_kwargs=True)
            for module, hook in before
        ]
        self._hooks.append(layers[-1].register_forward_hook(disable(after_last)))

    def take_off(self) -> None:
        """Take the hooks off again; a second call does nothing."""
        while self._hooks:
            self._hooks.pop().remove()

    def __enter__(self) -> Self:
        self.put_on()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.take_off()

    # -- what is to happen ----------------------------------------------------------------

    def expect(
        self, rules: Sequence[Rule | None], positions: Positions, newlines: Tensor | None = None
    ) -> Left:
        """Prune the next prompt with images that this thread runs.

        Several images of a row are one pool, whose count is that of all of them.

        Args:
            rules: One a row of the batch, of one method and its options; None leaves a row.
            positions: Position policy of every drop.
            newlines: ``Prepared.newlines`` of the prompt.

        Returns:
            What will be left, filled in while it runs.

        Raises:
            ConfigError: Positions that cannot be renumbered on this model.
            UnsupportedModelError: A model on several devices.
        """
        name = next(rule.method for rule in rules if rule is not None)
        check_positions(name, positions, self.backbone)
        left = Left(len(self._text.layers))
        self._local.job = Job(tuple(rules), positions, newlines, left)
        return left

    def forget(self) -> None:
        """Expect nothing any more."""
        self._local.job = None

    @contextmanager
    def prefill(
        self, rules: Sequence[Rule | None], positions: Positions, newlines: Tensor | None = None
    ) -> Iterator[Left]:
        """Prune the one prompt that is run within; see ``expect``."""
        left = self.expect(rules, positions, newlines)
        try:
            yield left
        finally:
            self.forget()

    # -- hooks --------------------------------------------------------------------------

    def _on_base(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note ids and mask, which the decoder does not see, of a call with images."""
        local = self._local
        local.seen = None
        given = {**dict(zip(self._names, args, strict=False)), **kwargs}
        if any(given.get(name) is not None for name in _IMAGES):
            local.seen = given.get("input_ids"), given.get("attention_mask")

    def _on_text(self, kwargs: dict[str, Any]) -> None:
        """Tell prompt from step, by layer 0's cache."""
        local, cache = self._local, kwargs.get("past_key_values")
        seen, local.seen, local.run = local.seen, None, None
        past = 0 if cache is None else int(cache.get_seq_length())
        following = self._step(cache, past) if past else None
        if seen is None or (local.job is None and following is None):
            local.run = following
            return
        if past:
            raise ResPruneError(
                "images behind a filled cache, in a later turn or part of a prompt, cannot be "
                "pruned inside the LLM; start from an empty cache"
            )
        if getattr(cache, "is_compileable", False):
            raise ResPruneError(
                "a static cache has one length for all layers, which pruning inside the LLM "
                "makes unequal; use cache_implementation='dynamic'"
            )
        ids, mask = seen
        flat = mask is None or (isinstance(mask, Tensor) and mask.ndim == 2)
        if ids is None or not flat or self._text.training:
            raise ResPruneError(
                "pruning inside the LLM needs model.eval(), input_ids and a 2-D attention_mask; "
                "pass the processor's output as it is"
            )
        assert local.job is not None  # a step has a past
        local.run = Prefill(local.job, self.backbone, self._text, ids, mask)
        local.job = None

    def _step(self, cache: Any, past: int) -> Step | None:
        prompt = self._prompts.get(cache)
        if prompt is not None:
            return Step(prompt, self._text, past)
        layers = range(len(getattr(cache, "layers", ())))
        if len({int(cache.get_seq_length(i)) for i in layers}) > 1:
            raise ResPruneError(
                "this cache has layers of unequal length and was not filled through this model "
                "(a copy of a pruned cache?); use the cache that the prompt was run with"
            )
        return None

    def _on_layer(self, i: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run = self._local.run
        if run is None:
            return None
        if isinstance(run, Prefill) and i == 0 and kwargs.get("past_key_values") is not None:
            self._prompts[kwargs["past_key_values"]] = run.prompt  # made inside the decoder
        hidden, changed = run.before(i, args[0], kwargs)
        return (hidden, *args[1:]), changed
