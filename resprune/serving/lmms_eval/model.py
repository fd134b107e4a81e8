"""The model that lmms-eval asks: one of transformers, pruned by ``resprune.attach``."""

from __future__ import annotations

import inspect
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.protocol import ChatMessages
from loguru import logger

from resprune.attaching.attachment import Attachment, attach
from resprune.attaching.call import CallRecord
from resprune.backbones import for_model
from resprune.errors import ResPruneError, near_names
from resprune.processors import load_processor
from resprune.serving.lmms_eval.asking import (
    MAX_NEW_TOKENS,
    Turn,
    answer_ids,
    end_ids,
    generate_arguments,
    ignored_arguments,
    model_inputs,
    read_messages,
    stops_of,
    trimmed,
)
from resprune.serving.lmms_eval.settings import Pruning, read_pruning

_DTYPES = ("auto", "bfloat16", "float16", "float32")


class ResPrune(lmms):
    """A vision-language model of transformers with its image tokens pruned.

    Args:
        pretrained: Folder or hub id of the model.
        config: Folder or hub id of a pruning config.
        budget: Budget of the config's table; without a config, the budget itself.
        alpha: The method's alpha.
        method: A method with its defaults, at ``budget``.
        positions: Position policy, where no config has one.
        text_model: As ``resprune.attach`` takes it.
        seed: Seed of a method that is random.
        device: Where the model runs; the first GPU, else the CPU.
        dtype: ``auto`` (as saved), ``bfloat16``, ``float16`` or ``float32``.
        attn_implementation: As ``from_pretrained`` takes it.
        revision: Hub revision of the model.
        trust_remote_code: As ``from_pretrained`` takes it.
        batch_size: Questions at once.
        max_batch_size: What lmms-eval passes beside it; not read.
        max_new_tokens: Length of an answer where a task does not say.
        **unknown: Anything else is an error.

    Attributes:
        pruning: How the model is pruned, or None.
        visual_tokens: Visual tokens of all images so far, where the model is pruned.
        kept_tokens: Those of them that were left in the end.
        pruned_images: Images that were pruned so far.

    Raises:
        ResPruneError: An argument that is unknown, missing, or does not fit the others or the
            model.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: Any = None,
        config: Any = None,
        budget: Any = None,
        alpha: Any = None,
        method: Any = None,
        positions: Any = None,
        text_model: Any = None,
        seed: int = 0,
        device: Any = None,
        dtype: str = "auto",
        attn_implementation: str | None = None,
        revision: Any = None,
        trust_remote_code: bool = False,
        batch_size: int | str = 1,
        max_batch_size: Any = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        **unknown: Any,
    ) -> None:
        super().__init__()
        _check_known(unknown)
        if pretrained is None:
            raise ResPruneError("model_args: no model; give pretrained=FOLDER_OR_HUB_ID")
        self.batch_size = _whole("batch_size", batch_size)
        self._max_new_tokens = _whole("max_new_tokens", max_new_tokens)
        self._device = torch.device(_device(device))
        source = str(pretrained)
        options: dict[str, Any] = {} if revision is None else {"revision": str(revision)}
        if trust_remote_code:
            options["trust_remote_code"] = True
        self._processor = _load_processor(source, options)
        self._model = _load_model(source, self._device, dtype, attn_implementation, options)
        self.pruning = self._read(config, budget, alpha, method, positions)
        self._attachment: Attachment | None = None
        if self.pruning is not None:
            self._attachment = attach(
                self._model,
                self._processor,
                self.pruning.config,
                budget=self.pruning.budget,
                seed=int(seed),
                text_model=None if text_model is None else str(text_model),
            )
        self._ends = end_ids(self._model)
        self._ignored: set[str] = set()
        self.visual_tokens = self.kept_tokens = self.pruned_images = 0
        self._layer_mean = 0.0
        _say_setting(self.pruning)

    def _read(
        self, config: Any, budget: Any, alpha: Any, method: Any, positions: Any
    ) -> Pruning | None:
        if all(value is None for value in (config, budget, alpha, method, positions)):
            return None  # an unpruned model may be of any family
        return read_pruning(
            for_model(self._model, self._processor).family,
            config=config,
            budget=budget,
            alpha=alpha,
            method=method,
            positions=positions,
        )

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self._device

    # -- what lmms-eval asks ------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answer questions, those with equal generation arguments in batches.

        Args:
            requests: Their ``args`` are context, messages by document, generation arguments,
                document, task and split.

        Returns:
            One answer a request, in order, with the tokens that went into the LLM and came out.

        Raises:
            ResPruneError: The model should be pruned, and images went through it unpruned.
        """
        groups: dict[str, list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            groups[json.dumps(request.args[2], sort_keys=True, default=str)].append(place)
        found: dict[int, GenerationResult] = {}
        tokens, seconds = 0, 0.0
        bar = _progress(len(requests), self.rank)
        for places in groups.values():
            for start in range(0, len(places), self.batch_size):
                batch = places[start : start + self.batch_size]
                began = time.perf_counter()
                answers = self._answer([requests[place].args for place in batch])
                seconds += time.perf_counter() - began
                tokens += sum(answer.token_counts.output_tokens for answer in answers)
                found |= dict(zip(batch, answers, strict=True))
                bar.update(len(batch))
        bar.close()
        self._say_kept(tokens, seconds)
        return [found[place] for place in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Any]) -> Any:
        """Not offered.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "resprune: this task scores given answers by likelihood, and the plug-in generates "
            "alone; choose its variant with output_type: generate_until"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> Any:
        """Not offered.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "resprune: this task asks in several rounds, and the plug-in answers single questions "
            "alone; choose a task with output_type: generate_until"
        )

    def clean(self) -> None:
        """Take the pruning off and give the model's memory back."""
        if self._attachment is not None:
            self._attachment.detach()
            self._attachment = None
        super().clean()

    # -- one batch ----------------------------------------------------------------------

    def _answer(self, asked: Sequence[tuple[Any, ...]]) -> list[GenerationResult]:
        """Answer a batch, rows without an image apart: processors do not mix them."""
        turns = [self._turn(*args[1:2], *args[3:]) for args in asked]
        given: Mapping[str, Any] = asked[0][2]
        self._say_ignored(given)
        results: dict[int, GenerationResult] = {}
        for with_images in (True, False):
            rows = [row for row, turn in enumerate(turns) if bool(turn.images) is with_images]
            if rows:
                answers = self._generate([turns[row] for row in rows], given)
                results |= dict(zip(rows, answers, strict=True))
        for row, turn in enumerate(turns):
            self.cache_hook.add_partial("generate_until", (turn.prompt, given), results[row].text)
        return [results[row] for row in range(len(turns))]

    def _turn(
        self, doc_to_messages: Callable[[Any], Any], doc_id: Any, task: str, split: str
    ) -> Turn:
        messages = ChatMessages(messages=doc_to_messages(self.task_dict[task][split][doc_id]))
        return read_messages(self._processor, messages.model_dump()["messages"])

    @torch.inference_mode()
    def _generate(self, turns: Sequence[Turn], given: Mapping[str, Any]) -> list[GenerationResult]:
        inputs = model_inputs(self._processor, turns, self._device, self._model.dtype)
        arguments = generate_arguments(given, self._max_new_tokens)
        entering = inputs["attention_mask"].sum(dim=1).tolist()
        if self._attachment is None:
            output = self._model.generate(**inputs, **arguments)
        else:
            assert self.pruning is not None
            if not self._attachment.attached:
                raise ResPruneError("the pruning was taken off the model; do not detach it")
            options = self.pruning.options or None
            output, record = self._attachment.generate(**inputs, **arguments, options=options)
            self._count(record, sum(len(turn.images) for turn in turns))
            if record.pruned:
                entering = [len(kept) for kept in record.kept_positions]
        width, stops = inputs["input_ids"].shape[1], stops_of(given)
        results = []
        for row, tokens in zip(output, entering, strict=True):
            ids = answer_ids(row[width:], self._ends)
            text = self._processor.tokenizer.decode(ids, skip_special_tokens=True)
            counts = TokenCounts(input_tokens=tokens, output_tokens=len(ids))
            results.append(GenerationResult(trimmed(text, stops), counts))
        return results

    def _count(self, record: CallRecord, images: int) -> None:
        """Add up what a call kept; one that should have been pruned and was not is an error."""
        assert self.pruning is not None
        if not images or self.pruning.policy.method == "unpruned":
            return
        if not record.pruned or len(record.kept) != images:
            raise ResPruneError(
                f"{images} images went through the model and {len(record.kept)} were pruned; "
                "nothing that lmms-eval would report is of the pruned model"
            )
        self.pruned_images += images
        self.visual_tokens += sum(record.visual_tokens)
        self.kept_tokens += sum(len(kept) for kept in record.left)
        self._layer_mean += sum(record.cost)

    # -- what is said -------------------------------------------------------------------

    def _say_ignored(self, given: Mapping[str, Any]) -> None:
        fresh = [name for name in ignored_arguments(given) if name not in self._ignored]
        if fresh:
            self._ignored |= set(fresh)
            logger.warning(f"resprune: generation arguments not read: {', '.join(fresh)}")

    def _say_kept(self, tokens: int, seconds: float) -> None:
        more: dict[str, float] = {}
        if self.pruned_images:
            images = self.pruned_images
            kept, total = self.kept_tokens / images, self.visual_tokens / images
            layers = self._layer_mean / images
            more = {"visual_tokens": total, "visual_tokens_kept": kept}
            inside = f", {layers:.1f} averaged over the layers" if abs(layers - kept) > 0.05 else ""
            unlike = self._attachment.fallbacks if self._attachment is not None else 0
            fallbacks = f"; {unlike} had a prompt unlike those of the predictor" if unlike else ""
            logger.info(
                f"ResPrune kept {kept:.1f} of {total:.1f} visual tokens an image on average"
                f"{inside} ({images} images{fallbacks})"
            )
        elif self.pruning is not None:
            logger.warning("ResPrune kept every visual token: nothing was pruned")
        log_metrics(
            total_elapsed_time=seconds,
            total_gen_tokens=tokens,
            avg_speed=tokens / seconds if seconds else 0.0,
            additional_metrics=more or None,
        )


def _say_setting(pruning: Pruning | None) -> None:
    if pruning is None or pruning.policy.method == "unpruned":
        logger.warning("ResPrune inactive: every visual token is kept")
    else:
        logger.info(f"ResPrune active: {pruning}")


def _check_known(unknown: Mapping[str, Any]) -> None:
    parameters = inspect.signature(ResPrune.__init__).parameters
    for name in unknown:
        near = near_names(name, set(parameters) - {"self", "unknown", "max_batch_size"})
        raise ResPruneError(f"model_args: resprune takes no {name!r}. {near}")


def _whole(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1 or number != (float(value) if isinstance(value, float) else number):
        raise ResPruneError(f"{name} is {value!r}; give a whole number from 1 on")
    return number


def _device(device: Any) -> str:
    """Return the device, of several processes each its own."""
    name = str(device) if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return name


def _load_processor(source: str, options: Mapping[str, Any]) -> Any:
    processor = load_processor(source, **options)
    if not getattr(processor, "chat_template", None):
        raise ResPruneError(
            f"{source}: the processor has no chat template; save one beside the model "
            "(processor.chat_template, processor.save_pretrained)"
        )
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token  # masked, so any will do
    return processor


def _load_model(
    source: str, device: torch.device, dtype: str, attention: str | None, options: Mapping[str, Any]
) -> Any:
    from transformers import AutoModelForImageTextToText

    if dtype not in _DTYPES:
        raise ResPruneError(f"model_args: dtype={dtype!r}. {near_names(str(dtype), _DTYPES)}")
    model: Any = AutoModelForImageTextToText.from_pretrained(
        source,
        dtype="auto" if dtype == "auto" else getattr(torch, dtype),
        attn_implementation=attention,
        **options,
    )
    return model.to(device=device).eval()


def _progress(total: int, rank: int) -> Any:
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(total=total, disable=rank != 0, desc="Model Responding")
