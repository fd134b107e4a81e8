"""Is pruning active? One prompt through ``generate`` with and without it, rows counted in between.

What the LLM runs on is seen by a hook on its decoder and by the lengths of its cache, and held
against what the attachment says of itself: a record alone is no proof.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from resprune import attach, methods
from resprune.backbones import Backbone
from resprune.config import PruningConfig
from resprune.errors import ResPruneError
from resprune.setting import Adaptive, Setting
from tuner.doctor.schema import Activity, ImageTokens, TileTokens

NEW_TOKENS = 8


class NotAsRecorded(ResPruneError):
    """The LLM ran on something else than the attachment says."""


@dataclass(frozen=True)
class Call:
    """One call of ``generate``.

    Attributes:
        rows: Rows of the prompt that entered the decoder.
        rows_by_layer: Rows of the prompt in the cache of each layer.
        logits: Of the first new token.
        answer: The new text.
    """

    rows: int
    rows_by_layer: tuple[int, ...]
    logits: torch.Tensor
    answer: str


def examine(
    backbone: Backbone,
    config: PruningConfig,
    inputs: Mapping[str, Any],
    *,
    model: str,
    certificate: str = "",
) -> Activity:
    """Run one prompt with and without pruning and say whether the LLM saw fewer tokens.

    Args:
        backbone: The model.
        config: The config; its default policy is used.
        inputs: The processor's output for one prompt, on the model's device.
        model: The model's name.
        certificate: What the config certifies for the policy, in a sentence.

    Raises:
        ResPruneError: The config does not fit the model, or the LLM ran on something else than
            the attachment says (``NotAsRecorded``).
    """
    whole = generated(backbone, inputs)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with attach(backbone.model, backbone.processor, config) as attachment:
            pruned = generated(backbone, inputs)
            record = attachment.last
    acted = record is not None and record.pruned
    kept = list(record.kept) if record is not None and acted else []
    left = list(record.left) if record is not None and acted else []
    placeholders = backbone.image_lengths(inputs)
    images = _images(backbone, inputs, placeholders, kept, left)
    policy = config.policy()
    active = pruned.rows < whole.rows or min(pruned.rows_by_layer) < whole.rows
    text = whole.rows - sum(placeholders)
    if record is not None and acted:
        _hold_against_record(pruned, text, images)
    model_config = backbone.model.config
    return Activity(
        model=model,
        model_class=type(backbone.model).__name__,
        family=backbone.family,
        device=str(backbone.model.device),
        dtype=str(backbone.model.dtype).removeprefix("torch."),
        attention=str(getattr(model_config.get_text_config(), "_attn_implementation", None)),
        policy=policy,
        question=record.questions[0] if record is not None and record.questions else "",
        nouns=tuple(record.nouns[0]) if record is not None and record.nouns else (),
        active=active,
        why="" if active else _why_not(backbone, policy, inputs, images, acted),
        rows_whole=whole.rows,
        rows=pruned.rows,
        rows_by_layer=pruned.rows_by_layer,
        images=images,
        newlines_kept=pruned.rows - text - sum(image.kept for image in images),
        next_position=_next_position(record) if acted else None,
        unpruned=whole.answer,
        pruned=pruned.answer,
        logit_change=float((whole.logits - pruned.logits).abs().max()),
        warnings=tuple(
            str(each.message) for each in warned if issubclass(each.category, UserWarning)
        ),
        certificate=certificate,
    )


def generated(backbone: Backbone, inputs: Mapping[str, Any]) -> Call:
    """Generate greedily, and count the rows that the decoder ran on."""
    model = backbone.model
    with _entering(model.get_decoder()) as entered:
        output = model.generate(
            **inputs,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            return_dict_in_generate=True,
            output_logits=True,
        )
    new = output.sequences[0, inputs["input_ids"].shape[1] :]
    cache = output.past_key_values
    layers = range(len(model.get_decoder().layers))
    after = len(output.logits) - 1  # the last new token is in no cache
    return Call(
        rows=entered[0],
        rows_by_layer=tuple(int(cache.get_seq_length(i)) - after for i in layers),
        logits=output.logits[0][0].float().cpu(),
        answer=str(backbone.tokenizer.decode(new, skip_special_tokens=True)).strip(),
    )


@contextmanager
def _entering(decoder: Any) -> Iterator[list[int]]:
    """Note how many rows each run of a decoder begins with."""
    found: list[int] = []

    def note(_: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        given = kwargs.get("inputs_embeds")
        if given is None:
            given = kwargs["input_ids"] if kwargs.get("input_ids") is not None else args[0]
        found.append(int(given.shape[1]))

    hook = decoder.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()


def _images(
    backbone: Backbone,
    inputs: Mapping[str, Any],
    placeholders: Sequence[int],
    kept: Sequence[torch.Tensor],
    left: Sequence[torch.Tensor],
) -> tuple[ImageTokens, ...]:
    """Count the tokens of each image, by view; without a record all are kept."""
    grids = inputs.get("image_grid_thw")
    found = []
    for number, image in enumerate(backbone.encode(inputs)):
        total = len(image.tokens)
        own = kept[number] if kept else torch.arange(total)
        tiles = image.tile_row_column()[:, 0].cpu()
        found.append(
            ImageTokens(
                visual_tokens=total,
                kept=len(own),
                left=len(left[number]) if left else total,
                newlines=placeholders[number] - total,
                patches=None if grids is None else int(grids[number].prod()),
                tiles=tuple(
                    TileTokens(
                        tile=tile,
                        visual_tokens=int((tiles == tile).sum()),
                        kept=int((tiles[own] == tile).sum()),
                    )
                    for tile in sorted(set(tiles.tolist()))
                ),
            )
        )
    return tuple(found)


def _hold_against_record(call: Call, text: int, images: Sequence[ImageTokens]) -> None:
    """Check that the LLM ran on what the record says.

    Newline tokens stay where an image keeps everything, and count nowhere else.
    """
    kept = sum(
        image.kept + (image.newlines if image.kept == image.visual_tokens else 0)
        for image in images
    )
    if call.rows != text + kept:
        raise NotAsRecorded(
            f"the attachment says that {kept} image tokens were kept beside {text} of text, and "
            f"{call.rows} rows entered the LLM; something between the two changes the prompt"
        )
    dropped = sum(image.kept - image.left for image in images)
    if min(call.rows_by_layer) != call.rows - dropped:
        raise NotAsRecorded(
            f"the attachment says that {dropped} image tokens were dropped inside the LLM, and the "
            f"caches of its layers hold {min(call.rows_by_layer)} to {call.rows} rows"
        )


def _why_not(
    backbone: Backbone,
    policy: Setting | Adaptive,
    inputs: Mapping[str, Any],
    images: Sequence[ImageTokens],
    acted: bool,
) -> str:
    """Say why the LLM saw every token."""
    if methods.get(policy.method).stage == "none":
        return "the policy is 'unpruned', which keeps all tokens; choose another budget"
    if backbone.has_video(inputs):
        return "the prompt has a video, and such calls pass through unpruned with all their images"
    if not images:
        return "the prompt has no image, so there is nothing to prune"
    total = sum(image.visual_tokens for image in images)
    if acted:
        return (
            f"the budget {policy.budget} keeps all {total} visual tokens of this image; "
            "choose a smaller one"
        )
    return (
        "attach left the model as it was: no call of model.generate reached the attachment; was "
        "generate wrapped, or the model copied, after attach?"
    )


def _next_position(record: Any) -> int | None:
    return None if record.next_positions is None else int(record.next_positions[0])
