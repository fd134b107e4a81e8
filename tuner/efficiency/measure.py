"""Measure policies against the unpruned model, in one interleaved run.

Every round makes the same call, through ``attach`` and ``model.generate``, with each policy in an
order drawn anew, so that what else the machine does meets all of them alike; ratios are paired
within a round.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from PIL import Image

from resprune.alpha import AlphaPredictor
from resprune.backbones import Backbone
from resprune.config import PruningConfig
from resprune.cost import tokens_by_layer
from resprune.errors import ResPruneError, StudyError
from resprune.setting import Adaptive, Setting, fixed, unpruned
from tuner.efficiency.break_even import Costs, break_even, mean_rows
from tuner.efficiency.extrapolate import Depths
from tuner.efficiency.flops import Decoder
from tuner.efficiency.memory import with_peak
from tuner.efficiency.ratios import LEAST_ROUNDS, speedup, spread
from tuner.efficiency.stopwatch import Stopwatch, Timed
from tuner.results.efficiency import Measured
from tuner.scoring.visual import processed

_PARTS = (
    "vision_ms",
    "read_ms",
    "select_ms",
    "prepare_ms",
    "prefill_ms",
    "first_token_ms",
    "decode_ms",
)
_UNEVEN = "it acts inside the LLM, and a + L b does not describe layers that are not alike"
_FAILURES = (ResPruneError, RuntimeError, ValueError, NotImplementedError)  # out of memory too


class ImagePrompt(NamedTuple):
    """What a served model is asked: an image, and the prompt as ``backbone.chat_prompt`` has it."""

    image: Image.Image
    text: str


@dataclass
class _Case:
    """A policy at one batch size.

    Attributes:
        policy: The policy.
        batch: The batch size.
        config: A config with that policy alone.
        calls: Its calls, one a round.
        peak: Peak memory of a prefill, where it was measured.
        error: Why it cannot run.
    """

    policy: Setting | Adaptive
    batch: int
    config: PruningConfig
    calls: list[Timed] = field(default_factory=list)
    peak: int | None = None
    error: str | None = None


def measure(
    backbone: Backbone,
    prompts: Sequence[ImagePrompt],
    policies: Sequence[Setting | Adaptive],
    *,
    repeats: int = 9,
    seed: int = 0,
    max_new_tokens: int = 8,
    batches: Sequence[int] = (1,),
    predictor: AlphaPredictor | None = None,
    depths: Depths | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Setting | Adaptive, Measured]:
    """Measure policies, paired with the unpruned model, which is measured in any case.

    Args:
        backbone: The model.
        prompts: Rounds go through them in turn.
        policies: What to measure.
        repeats: Rounds, ``LEAST_ROUNDS`` or more; each policy is called twice before, untimed.
        seed: Draws the order of policies in each round, and what methods draw.
        max_new_tokens: Tokens to generate, 2 or more.
        batches: Batch sizes; 1 is always among them.
        predictor: Of adaptive policies.
        depths: Times two shallow forms of the model in place of itself.
        progress: Called with the calls done and in all.

    Returns:
        A row for each policy, the unpruned model's first. One that cannot run says why.

    Raises:
        StudyError: Too few rounds or new tokens, no prompt, or a batch size under 1.
    """
    _check(prompts, repeats, max_new_tokens, batches)
    policies = list(dict.fromkeys((unpruned(), *policies)))
    cases = [
        _Case(policy, batch, _config(policy, predictor))
        for batch in dict.fromkeys((1, *batches))
        for policy in policies
    ]
    with Stopwatch(backbone) as stopwatch:
        run = _Run(stopwatch, prompts, max_new_tokens, depths)
        for done, case in enumerate(cases, 1):
            run.start_up(case)
            if progress is not None:
                progress(done, len(cases) * (repeats + 1))
        order = random.Random(seed)
        for number in range(repeats):
            for done, case in enumerate(order.sample(cases, len(cases)), 1):
                run.timed(case, number)
                if progress is not None:
                    progress(len(cases) * (number + 1) + done, len(cases) * (repeats + 1))
    decoder = run.decoder
    size = backbone.model.dtype.itemsize
    return {
        policy: _measured([c for c in cases if c.policy == policy], cases, decoder, size)
        for policy in policies
    }


class _Run:
    """Makes the calls."""

    def __init__(
        self,
        stopwatch: Stopwatch,
        prompts: Sequence[ImagePrompt],
        new_tokens: int,
        depths: Depths | None,
    ) -> None:
        self._stopwatch = stopwatch
        self._backbone = stopwatch.backbone
        self._prompts = prompts
        self._new_tokens = new_tokens
        self._depths = depths
        self.decoder = Decoder.of(self._backbone.model.config)
        if depths is not None:
            self.decoder = replace(self.decoder, layers=depths.full)

    def start_up(self, case: _Case) -> None:
        """Make the calls that are not timed: one to start, one whose memory is measured."""
        try:
            if self._depths is not None and fixed(case.policy).inside is not None:
                raise StudyError(_UNEVEN)
            self._first(case)
            if case.batch == 1:
                case.peak = self._peak(case)
        except _FAILURES as error:
            case.error = _reason(error)

    def timed(self, case: _Case, number: int) -> None:
        """Make the call of a round."""
        if case.error is not None:
            return
        try:
            case.calls.append(self._call(case, number, self._new_tokens))
        except _FAILURES as error:
            case.error = _reason(error)

    def _first(self, case: _Case) -> None:
        if self._depths is not None:
            self._depths.cut(self._depths.counts[0])
        self._stopwatch.call(self._inputs(case.batch, 0), case.config, 2)

    def _call(self, case: _Case, number: int, new_tokens: int) -> Timed:
        inputs = self._inputs(case.batch, number)
        if self._depths is None:
            return self._stopwatch.call(inputs, case.config, new_tokens)
        timed = {}
        for count in self._depths.counts:
            self._depths.cut(count)
            timed[count] = self._stopwatch.call(inputs, case.config, new_tokens)
        return self._depths.at_full(timed)

    def _peak(self, case: _Case) -> int | None:
        """Measure the memory of a prefill; layers that were cut off would add their caches."""
        inputs = self._inputs(1, 0)
        if self._depths is not None:
            self._depths.cut(self._depths.counts[-1])
        call, peak = with_peak(
            lambda: self._stopwatch.call(inputs, case.config, 1), self._backbone.model.device
        )
        missing = self.decoder.layers - len(call.rows_per_layer)
        size = self._backbone.model.dtype.itemsize
        cache = self.decoder.kv_bytes(call.rows_per_layer[:1] * missing, size)
        return None if peak is None else peak + round(cache)

    def _inputs(self, batch: int, number: int) -> dict[str, Any]:
        rows = [self._prompts[(number + i) % len(self._prompts)] for i in range(batch)]
        return processed(self._backbone, [[row.image] for row in rows], [row.text for row in rows])


def _measured(
    cases: Sequence[_Case], every: Sequence[_Case], decoder: Decoder, size: int
) -> Measured:
    """Make the row of a policy from its cases, batch 1 first."""
    single, whole = cases[0], every[0]
    policy, calls = single.policy, single.calls
    if single.error == _UNEVEN and whole.calls:
        return _counted(fixed(policy), whole.calls, decoder, size)
    if single.error is not None:
        return Measured(policy=policy, error=single.error)
    paired = {}
    if whole.error is None and single is not whole:
        paired = {
            "first_token": speedup(*_each("first_token_ms", whole.calls, calls)),
            "whole_call": speedup(*_each("call_ms", whole.calls, calls)),
            "break_even": break_even(Costs.of(decoder, whole.calls, calls), policy.budget),
        }
    kept = statistics.mean(call.kept for call in calls)
    if single is whole:  # its own prompts also count what is no visual token, such as newlines
        totals = [call.visual_tokens for case in every[1:] for call in case.calls]
        kept = statistics.mean(totals) if totals else kept
    return Measured(
        policy=policy,
        kept=kept,
        rows_per_layer=mean_rows(calls),
        **{name: spread(*_each(name, calls)) for name in _PARTS},
        **paired,
        tokens_per_second={
            case.batch: spread(*_each("tokens_per_second", case.calls))
            for case in cases
            if case.error is None
        },
        batch_errors={case.batch: case.error for case in cases if case.error is not None},
        prefill_flops=_mean(decoder.prefill_flops(call.rows_per_layer) for call in calls),
        kv_bytes=_mean(decoder.kv_bytes(call.rows_per_layer, size) for call in calls),
        peak_bytes=single.peak,
    )


def _counted(setting: Setting, whole: Sequence[Timed], decoder: Decoder, size: int) -> Measured:
    """Count what a method inside the LLM runs, from the rows of the unpruned model's calls."""
    calls = []
    for call in whole:
        text = call.rows_per_layer[0] - call.visual_tokens
        counts = tokens_by_layer(setting, round(call.visual_tokens), decoder.layers)
        calls.append([text + count for count in counts])
    return Measured(
        policy=setting,
        error=_UNEVEN,
        kept=counts[-1],
        rows_per_layer=tuple(map(statistics.mean, zip(*calls, strict=True))),
        prefill_flops=_mean(map(decoder.prefill_flops, calls)),
        kv_bytes=_mean(decoder.kv_bytes(rows, size) for rows in calls),
    )


def _each(name: str, *runs: Sequence[Timed]) -> list[list[float]]:
    return [[getattr(call, name) for call in calls] for calls in runs]


def _mean(values: Iterable[float]) -> int:
    return round(statistics.mean(values))


def _reason(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _config(policy: Setting | Adaptive, predictor: AlphaPredictor | None) -> PruningConfig:
    plain = policy.model_dump(mode="json")
    data = {"default": plain["arms"][0]["budget"] if "arms" in plain else plain["budget"]}
    return PruningConfig.from_dict({**data, "table": [plain]}, predictor=predictor)


def _check(
    prompts: Sequence[ImagePrompt], repeats: int, new_tokens: int, batches: Sequence[int]
) -> None:
    if not prompts:
        raise StudyError("there is no prompt to measure with; give one or more")
    if repeats < LEAST_ROUNDS:
        raise StudyError(
            f"repeats is {repeats}; give {LEAST_ROUNDS} or more, since fewer rounds give no 95 % "
            "interval"
        )
    if new_tokens < 2:
        raise StudyError(f"new tokens is {new_tokens}; give 2 or more, to time the second one")
    for batch in batches:
        if batch < 1:
            raise StudyError(f"batch size {batch}; give 1 or more")
