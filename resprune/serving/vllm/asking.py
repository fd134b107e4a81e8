"""The front end: which policy a request gets, and what is read of its question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from resprune import methods
from resprune.attaching.compatible import make_extractor
from resprune.backbones import WordIds, extract_question, learn_markers
from resprune.config import PruningConfig
from resprune.errors import ConfigError
from resprune.plan import needs_of
from resprune.prompt import Question, read_question
from resprune.serving.vllm.settings import digest
from resprune.serving.vllm.wire import (
    BUDGET,
    POLICY,
    QUESTION,
    own_names,
    without_own,
)
from resprune.setting import Adaptive, Setting

_REMEMBERED = 4096


class Asking:
    """Reads requests under a pruning config.

    Args:
        config: The pruning config.
        processor: The model's Hugging Face processor, with its tokenizer.
        image_token_id: Id of the image placeholder.
    """

    def __init__(self, config: PruningConfig, processor: Any, image_token_id: int) -> None:
        self.config = config
        self._tokenizer = processor.tokenizer
        self._image_token_id = image_token_id
        self._digests = {policy.budget: digest(config, policy) for policy in config.table}
        self._policies = {self._digests[policy.budget]: policy for policy in config.table}
        self._read = lru_cache(_REMEMBERED)(self._read_question)
        if any(map(reads_question, config.table)):
            self._markers = learn_markers(processor, image_token_id)
            self._extractor = make_extractor(config.nouns)
            self._word_ids = WordIds(processor.tokenizer)

    def arguments(self, given: Mapping[str, Any], prompt: Sequence[int]) -> dict[str, Any]:
        """Return a request's processor arguments with what its selection depends on.

        Args:
            given: The request's own arguments.
            prompt: Its token ids, one placeholder an image.

        Returns:
            New arguments; vLLM hashes them with each image.

        Raises:
            ConfigError: A budget that is not in the table, or another argument of this package.
        """
        foreign = [name for name in own_names(given) if name != BUDGET]
        if foreign:
            raise ConfigError(
                f"{foreign[0]} cannot be given by a request; give {BUDGET}, or nothing"
            )
        policy = self.config.policy(given.get(BUDGET))
        found = {**without_own(given), POLICY: self._digests[policy.budget]}
        if reads_question(policy):
            found[QUESTION] = extract_question(
                torch.tensor(prompt), self._tokenizer, self._image_token_id, self._markers
            )
        return found

    def policy(self, arguments: Mapping[str, Any]) -> Setting | Adaptive:
        """Return the policy that ``arguments`` chose."""
        return self._policies[arguments[POLICY]]

    def question(self, arguments: Mapping[str, Any]) -> Question:
        """Return what is read of a request's question; nothing where its policy reads none."""
        text = arguments.get(QUESTION)
        return Question() if text is None else self._read(text)

    def _read_question(self, text: str) -> Question:
        return read_question(text, self._extractor, self._word_ids)


def reads_question(policy: Setting | Adaptive) -> bool:
    """Say whether what is kept depends on the question: its nouns, or a draw named after it."""
    return "nouns" in needs_of(policy) or methods.get(policy.method).draws


def kept_placeholders(policy: Setting | Adaptive, tokens: int, placeholders: int) -> int:
    """Return how many placeholders an image keeps: known from its size alone.

    Args:
        policy: Its policy.
        tokens: Visual tokens T of the image.
        placeholders: Its placeholders before pruning: T, and newline tokens where a family has
            them, which go as soon as one visual token goes.

    Returns:
        The count.
    """
    if methods.get(policy.method).stage == "none":
        return placeholders
    kept = policy.budget.limit(tokens)
    return placeholders if kept == tokens else kept
