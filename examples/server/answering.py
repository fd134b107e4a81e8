"""A model with a pruning config: batches of questions in, answers with their records out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

import resprune
from resprune import PruningConfig
from resprune.attaching.call import CallRecord
from resprune.processors import load_processor


@dataclass(frozen=True)
class Job:
    """One request.

    Attributes:
        images: Its images.
        question: Its question.
        budget: A budget of the config's table, or None for the default.
        alpha: The method's alpha for this request, or None.
        new_tokens: Most new tokens.
    """

    images: tuple[Image.Image, ...]
    question: str
    budget: int | float | None
    alpha: float | None
    new_tokens: int

    @property
    def together(self) -> tuple[object, ...]:
        """What requests of one batch have in common."""
        return self.budget, self.alpha, self.new_tokens, len(self.images)


@dataclass(frozen=True)
class Answer:
    """What one request is told.

    Attributes:
        text: The answer.
        ended: Whether the model ended it, not the limit of new tokens.
        record: What was kept for it.
    """

    text: str
    ended: bool
    record: dict[str, Any]


class Answerer:
    """A loaded model, attached.

    Args:
        model: Folder or hub id.
        config: The pruning config.
        dtype: Of the weights, as ``from_pretrained`` takes it.
    """

    def __init__(self, model: str, config: PruningConfig, dtype: str = "auto") -> None:
        from transformers import AutoModelForImageTextToText

        automatic: Any = AutoModelForImageTextToText
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.config = config
        self.model = automatic.from_pretrained(model, dtype=dtype).to(device).eval()
        self.processor = load_processor(model)
        self.attached = resprune.attach(self.model, self.processor, config)

    def __call__(self, jobs: Sequence[Job]) -> list[Answer]:
        """Answer jobs that go together in one call of the model."""
        first = jobs[0]
        prompts = [
            self.attached.backbone.chat_prompt(job.question, len(job.images)) for job in jobs
        ]
        inputs = self.processor(
            images=[image for job in jobs for image in job.images],
            text=prompts,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(self.model.device)
        options = {} if first.alpha is None else {"alpha": first.alpha}
        output, record = self.attached.generate(
            **inputs,
            **options,
            query=[job.question for job in jobs],
            budget=first.budget,
            max_new_tokens=first.new_tokens,
            do_sample=False,
        )
        generated = output[:, inputs["input_ids"].shape[1] :].tolist()
        prompt_lengths = inputs["attention_mask"].sum(dim=1).tolist()
        return [
            self._answer(ids, row, record, int(prompt_lengths[row]))
            for row, ids in enumerate(generated)
        ]

    def _answer(self, ids: list[int], row: int, record: CallRecord, length: int) -> Answer:
        ending = self.model.generation_config.eos_token_id
        endings = set(ending) if isinstance(ending, list) else {ending}
        stop = next((place for place, token in enumerate(ids) if token in endings), None)
        text = self.processor.tokenizer.decode(
            ids if stop is None else ids[:stop], skip_special_tokens=True
        )
        return Answer(text.strip(), stop is not None, record_of_row(record, row, length))


def record_of_row(record: CallRecord, row: int, length: int) -> dict[str, Any]:
    """Return what a call did for one of its rows, as JSON has it.

    Args:
        record: The call's record.
        row: The row.
        length: Tokens of its prompt before pruning.
    """
    if not record.pruned:
        return {"pruned": False, "budget": str(record.policy.budget), "prompt_tokens": length}
    own = [image for image, place in enumerate(record.rows) if place == row]
    return {
        "pruned": True,
        "budget": str(record.policy.budget),
        "method": record.policy.method,
        "options": [record.settings[image].options.model_dump(mode="json") for image in own],
        "unlike_fitted": any(record.outside[image] for image in own),
        "question": record.questions[row],
        "nouns": record.nouns[row],
        "visual_tokens": [record.visual_tokens[image] for image in own],
        "kept": [record.kept[image].tolist() for image in own],
        "prompt_tokens": length,
        "prompt_tokens_kept": len(record.kept_positions[row]),
        "batch_ms": {name: round(value, 1) for name, value in record.timings.items()},
    }
