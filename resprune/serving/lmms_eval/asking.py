"""From a task's messages and generation arguments to what a model takes, and back to an answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from resprune.errors import ResPruneError

MAX_NEW_TOKENS = 1024
"""Where neither task nor user says how long an answer may be, as lmms-eval's LLaVA has it."""
_ADDED_STOP = "\n\n"
_PASSED = (
    "max_new_tokens",
    "min_new_tokens",
    "num_beams",
    "length_penalty",
    "repetition_penalty",
    "no_repeat_ngram_size",
)
_SAMPLING = ("temperature", "top_p", "top_k")
_READ = frozenset({*_PASSED, *_SAMPLING, "do_sample", "until"})


@dataclass(frozen=True)
class Turn:
    """One question as the processor takes it.

    Attributes:
        prompt: The rendered conversation.
        images: Its images, in order.
    """

    prompt: str
    images: tuple[Image.Image, ...]


def read_messages(processor: Any, messages: Sequence[Mapping[str, Any]]) -> Turn:
    """Render a conversation with the processor's chat template.

    Args:
        processor: The model's processor.
        messages: Turns as lmms-eval has them, with a list of contents each.

    Returns:
        The prompt and its images.

    Raises:
        ResPruneError: A video or sound is among them.
    """
    token = getattr(processor, "image_token", None)
    turns, images = [], []
    for message in messages:
        contents: list[dict[str, str]] = []
        for content in message["content"]:
            kind = content["type"]
            if kind == "image":
                images.append(_read_image(content["url"]))
                contents.append({"type": "image"})
            elif kind == "text":
                text = str(content["text"])  # a task may have written its own place for the image
                contents.append(
                    {"type": "text", "text": text.replace(token, "") if token else text}
                )
            else:
                raise ResPruneError(
                    f"a task asks about a {kind}, and resprune prunes images alone; evaluate it "
                    "with lmms-eval's own model"
                )
        turns.append({"role": message["role"], "content": contents})
    prompt = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return Turn(str(prompt), tuple(images))


def _read_image(source: Any) -> Image.Image:
    if isinstance(source, Image.Image):
        return source.convert("RGB")
    from transformers.image_utils import load_image

    image: Image.Image = load_image(source)  # a path, an address, or base64
    return image


def model_inputs(processor: Any, turns: Sequence[Turn], device: Any, dtype: Any) -> dict[str, Any]:
    """Run the processor on a batch, padded on the left.

    Args:
        processor: The model's processor.
        turns: Questions, all with images or all without.
        device: The model's device.
        dtype: The model's dtype.

    Returns:
        Inputs for ``model.generate``.
    """
    tokenizer = processor.tokenizer
    images = [list(turn.images) for turn in turns]
    given = {"images": images} if any(images) else {}
    side = tokenizer.padding_side
    tokenizer.padding_side = "left"
    try:
        batch = processor(
            text=[turn.prompt for turn in turns], return_tensors="pt", padding=True, **given
        )
    finally:
        tokenizer.padding_side = side
    return {
        name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
        for name, value in batch.items()
        if isinstance(value, Tensor)
    }


def generate_arguments(given: Mapping[str, Any], max_new_tokens: int) -> dict[str, Any]:
    """Turn a task's generation arguments into those of ``model.generate``.

    It samples only where a task asks for it; ``temperature: 0`` never does.

    Args:
        given: The task's arguments.
        max_new_tokens: Length of an answer where the task does not say.

    Returns:
        The arguments.
    """
    arguments = {"max_new_tokens": max_new_tokens, "num_beams": 1}
    arguments |= {name: given[name] for name in _PASSED if given.get(name) is not None}
    temperature, asked = given.get("temperature"), given.get("do_sample")
    if asked is False or not (bool(asked) if temperature is None else float(temperature) > 0):
        # set, so that no value of the model's own generation config is warned about
        return {**arguments, "do_sample": False, **dict.fromkeys(_SAMPLING)}
    sampling = {name: given[name] for name in _SAMPLING if given.get(name) is not None}
    return {**arguments, "do_sample": True, **sampling}


def ignored_arguments(given: Mapping[str, Any]) -> list[str]:
    """Return the names of a task's generation arguments that are not read here."""
    return sorted(name for name, value in given.items() if name not in _READ and value is not None)


def stops_of(given: Mapping[str, Any]) -> list[str]:
    """Return the texts at which an answer ends.

    lmms-eval adds a blank line to every task that names none; as in its own Qwen models that one
    is left out, since it would cut an answer of several paragraphs after the first.
    """
    until = given.get("until") or []
    listed = [until] if isinstance(until, str) else list(until)
    return [stop for stop in listed if stop and stop != _ADDED_STOP]


def answer_ids(row: Tensor, ends: Collection[int]) -> list[int]:
    """Cut a generated row behind its end-of-text token, where the batch's padding begins."""
    ids: list[int] = row.tolist()
    return next((ids[: place + 1] for place, token in enumerate(ids) if token in ends), ids)


def end_ids(model: Any) -> frozenset[int]:
    """Return the ids that end an answer of a model."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        return frozenset()
    return frozenset(torch.as_tensor(ends).flatten().tolist())


def trimmed(text: str, stops: Collection[str]) -> str:
    """Cut an answer at the first stop, white space around it gone."""
    text = text.strip()
    for stop in stops:
        text = text.split(stop)[0]
    return text.strip()
