"""What ``generate`` must be told, and what it must give back, when the prompt gets shorter."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from resprune.errors import ResPruneError

_LENGTHS = (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens"))


def relative_lengths(
    kwargs: dict[str, Any], generation_config: Any, default: Any, prompt_length: int
) -> tuple[dict[str, Any], Any]:
    """Turn limits that count prompt tokens into limits that count new ones.

    Args:
        kwargs: Keyword arguments of ``generate``.
        generation_config: The config given to ``generate``, or None.
        default: The model's own generation config.
        prompt_length: Length of the prompt before pruning, padding included.

    Returns:
        New keyword arguments and generation config; the ones given are not changed. Limits go
        into the config where there is one: transformers is about to refuse both at once.

    Raises:
        ResPruneError: ``max_length`` leaves no room after the prompt.
    """
    kwargs, given = dict(kwargs), copy.copy(generation_config)
    for total, new in _LENGTHS:
        sources = [kwargs.get, *(_reader(config) for config in (given, default) if config)]
        if any(source(new) is not None for source in sources):
            continue  # transformers lets the count of new tokens win
        limit = next((value for source in sources if (value := source(total)) is not None), None)
        if limit is None:
            continue
        kwargs.pop(total, None)
        if given is not None and getattr(given, total, None) is not None:
            setattr(given, total, None)
        room = int(limit) - prompt_length
        if total == "max_length" and room < 1:
            raise ResPruneError(
                f"max_length is {limit} and the prompt has {prompt_length} tokens before pruning; "
                "raise max_length, or set max_new_tokens"
            )
        if room > 0 and given is not None:
            setattr(given, new, room)
        elif room > 0:
            kwargs[new] = room
    return kwargs, given


def with_prompt(output: Any, input_ids: Tensor, short_length: int) -> Any:
    """Put the original prompt in front of what was generated.

    So ``output[:, input_ids.shape[1]:]`` is the answer, pruned or not.

    Args:
        output: What ``generate`` gave for the shortened prompt: ids, or an output with
            ``sequences``.
        input_ids: The original prompt, shape (B, S).
        short_length: Length of the shortened prompt, padding included.

    Returns:
        The same kind of output.
    """
    if isinstance(output, Tensor):
        return _joined(output, input_ids, short_length)
    output.sequences = _joined(output.sequences, input_ids, short_length)
    return output


def _joined(sequences: Tensor, input_ids: Tensor, short_length: int) -> Tensor:
    prompts = input_ids.to(sequences.device)
    prompts = prompts.repeat_interleave(sequences.shape[0] // prompts.shape[0], dim=0)
    return torch.cat([prompts, sequences[:, short_length:]], dim=1)


def _reader(config: Any) -> Any:
    return lambda name: getattr(config, name, None)
