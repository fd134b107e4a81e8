"""One call of ``model.generate``, timed in its parts, as a server would make it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch

from resprune import attach
from resprune.backbones import Backbone
from resprune.config import PruningConfig

_WARM_QUESTION = "What stands beside the start-up?"


@dataclass(frozen=True)
class Timed:
    """The parts of one call; milliseconds.

    Attributes:
        vision_ms: Vision tower and projector.
        read_ms: The prompt read into nouns; 0 where none is read.
        select_ms: Choosing the tokens.
        prepare_ms: Making the shorter inputs.
        prefill_ms: The decoder on the prompt.
        other_ms: What else passes before the first token: the head, and ``generate`` itself.
        decode_ms: Each token after the first.
        new_tokens: Tokens generated a row.
        batch: Rows.
        rows_per_layer: Rows that each decoder layer ran on at prefill.
        kept: Mean count of visual tokens of an image that reached the LLM.
        visual_tokens: Mean count T of an image.
    """

    vision_ms: float
    read_ms: float
    select_ms: float
    prepare_ms: float
    prefill_ms: float
    other_ms: float
    decode_ms: float
    new_tokens: int
    batch: int
    rows_per_layer: tuple[int, ...]
    kept: float
    visual_tokens: float

    @property
    def overhead_ms(self) -> float:
        """What pruning adds."""
        return self.read_ms + self.select_ms + self.prepare_ms

    @property
    def first_token_ms(self) -> float:
        """From the processor's output to the first token."""
        return self.vision_ms + self.overhead_ms + self.prefill_ms + self.other_ms

    @property
    def call_ms(self) -> float:
        """The whole call."""
        return self.first_token_ms + (self.new_tokens - 1) * self.decode_ms

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all rows a second."""
        return 1e3 * self.batch * self.new_tokens / self.call_ms


class Stopwatch:
    """Times calls of a model; a context, which takes its hooks off again.

    Args:
        backbone: The model.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._decoder = backbone.model.get_decoder()
        self._inner = backbone.model.base_model
        self._hooks: list[Any] = []
        self._begin = 0.0
        self._vision_ms = 0.0
        self._prefill: list[float] = []
        self._tokens: list[float] = []

    def __enter__(self) -> Self:
        self._hooks = [
            self._decoder.register_forward_pre_hook(lambda *_: self._mark(self._prefill, 1)),
            self._decoder.register_forward_hook(lambda *_: self._mark(self._prefill, 2)),
        ]
        # an unpruned call encodes its image inside ``generate``, where no hook tells begin and end
        vars(self._inner)["get_image_features"] = self._encoding(self._inner.get_image_features)
        return self

    def __exit__(self, *_: object) -> None:
        while self._hooks:
            self._hooks.pop().remove()
        del vars(self._inner)["get_image_features"]

    def call(self, inputs: Mapping[str, Any], config: PruningConfig, new_tokens: int) -> Timed:
        """Attach a config, generate, and take everything off again.

        The question is read as one not seen before, and what only the first call of a served model
        pays (chat markers, the noun pipeline) is paid before the clock starts.

        Args:
            inputs: The processor's output on the model's device.
            config: A pruning config with one policy.
            new_tokens: Tokens to generate, whatever they are.

        Raises:
            ResPruneError: The policy cannot serve on this model.
        """
        from transformers import StoppingCriteriaList

        model = self.backbone.model
        with attach(model, self.backbone.processor, config) as attachment:
            _ = attachment.backbone.markers
            if "reader" in vars(attachment):
                attachment.reader.read(_WARM_QUESTION)
            self._vision_ms, self._prefill, self._tokens = 0.0, [], []
            self._begin = self._now()
            output = model.generate(
                **inputs,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                num_beams=1,
                use_cache=True,
                return_dict_in_generate=True,
                stopping_criteria=StoppingCriteriaList([self._on_token]),
            )
            record = attachment.last
        assert record is not None
        cache, layers = output.past_key_values, len(self._decoder.layers)
        rows = tuple(int(cache.get_seq_length(i)) - new_tokens + 1 for i in range(layers))
        lengths = self.backbone.image_lengths(inputs)
        totals = record.visual_tokens or lengths
        kept = [len(each) for each in record.left] or totals
        first = self._tokens[0] - self._begin
        parts = {
            "vision_ms": record.timings.get("encode_ms", self._vision_ms),
            "read_ms": record.timings.get("read_ms", 0.0),
            "select_ms": record.timings.get("select_ms", 0.0),
            "prepare_ms": record.timings.get("prepare_ms", 0.0),
            "prefill_ms": self._prefill[1] - self._prefill[0],
        }
        after = self._tokens[-1] - self._tokens[0]
        return Timed(
            **parts,
            other_ms=first - sum(parts.values()),
            decode_ms=after / (new_tokens - 1) if new_tokens > 1 else 0.0,
            new_tokens=new_tokens,
            batch=len(inputs["input_ids"]),
            rows_per_layer=rows,
            kept=sum(kept) / len(kept),
            visual_tokens=sum(totals) / len(totals),
        )

    def _encoding(self, encode: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(encode)  # generate asks for its parameters
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = self._now()
            found = encode(*args, **kwargs)
            self._vision_ms += self._now() - begin
            return found

        return timed

    def _mark(self, times: list[float], most: int) -> None:
        if len(times) < most:
            times.append(self._now())

    def _on_token(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        self._tokens.append(self._now())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def _now(self) -> float:
        device = self.backbone.model.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1e3 * time.perf_counter()
