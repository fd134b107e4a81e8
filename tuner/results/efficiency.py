"""What pruning costs and saves on one machine: rows of ``efficiency.json`` and of the results."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from resprune.setting import Policy


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Spread(_Row):
    """A median with its lower and upper quartile."""

    median: float
    low: float
    high: float


class Speedup(_Row):
    """How many times faster than the unpruned model: over 1 is faster, under 1 slower.

    Attributes:
        ratio: Median over the rounds of the unpruned model's time by the policy's, paired.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    ratio: float
    low: float
    high: float


class BreakEven(_Row):
    """Below what pruning at this budget does not pay on this machine; see ``break_even``.

    Attributes:
        visual_tokens: Least visual tokens of an image from which on it pays; None where it does
            at no length, or the LLM was not faster with fewer tokens here.
        parameters: Least parameters in the LLM's layers at which it pays with the image measured,
            the model growing in width alone; None as above.
    """

    visual_tokens: int | None
    parameters: int | None


class Measured(_Row):
    """What one policy takes, a prompt with one image at a time unless a batch is named.

    Times are milliseconds. Means are over the prompts of the run.

    Attributes:
        policy: What was measured.
        error: Why it cannot run here; then everything is None or empty but what can be counted
            without running it.
        kept: Mean count of visual tokens that reach the LLM.
        rows_per_layer: Mean count of rows that each decoder layer runs on at prefill.
        vision_ms: Vision tower and projector, with what a method records on the way.
        read_ms: The prompt read into nouns, a question not seen before.
        select_ms: Choosing the tokens.
        prepare_ms: Making the shorter inputs.
        prefill_ms: The decoder on the prompt; with what a method does inside it.
        first_token_ms: From the processor's output to the first token, everything included.
        decode_ms: Each token after the first.
        first_token: First token, against the unpruned model.
        whole_call: Prompt and ``new_tokens`` tokens, against the unpruned model.
        tokens_per_second: New tokens a second over whole calls, by batch size.
        batch_errors: Why a batch size cannot run here.
        prefill_flops: Of the decoder's matrix products on the prompt, exact.
        kv_bytes: The cache of one prompt after prefill, exact.
        peak_bytes: Most that one prefill held above what was held at its start; None where the
            system does not tell.
        break_even: Below what it does not pay; None of the unpruned model.
    """

    policy: Policy
    error: str | None = None
    kept: float | None = None
    rows_per_layer: tuple[float, ...] = ()
    vision_ms: Spread | None = None
    read_ms: Spread | None = None
    select_ms: Spread | None = None
    prepare_ms: Spread | None = None
    prefill_ms: Spread | None = None
    first_token_ms: Spread | None = None
    decode_ms: Spread | None = None
    first_token: Speedup | None = None
    whole_call: Speedup | None = None
    tokens_per_second: dict[int, Spread] = {}
    batch_errors: dict[int, str] = {}
    prefill_flops: int | None = None
    kv_bytes: int | None = None
    peak_bytes: int | None = None
    break_even: BreakEven | None = None


class Efficiency(_Row):
    """One run of the bench.

    Attributes:
        model: What was measured.
        device: Where, with the threads that torch had.
        dtype: The model's.
        layers: Decoder layers that the figures are for.
        parameters: Parameters in the matrices of those layers.
        measured_layers: Depths that were timed; where they are not ``layers``, times are
            extrapolated as a + L b.
        prompts: Prompts that the rounds went through.
        prompt_source: Where they come from.
        repeats: Rounds.
        new_tokens: Tokens generated a call.
        seed: Drew the order of policies in each round.
        rows: The unpruned model, then the policies.
    """

    model: str
    device: str
    dtype: str
    layers: int
    parameters: int
    measured_layers: tuple[int, ...]
    prompts: int
    prompt_source: str
    repeats: int
    new_tokens: int
    seed: int
    rows: tuple[Measured, ...]

    @property
    def extrapolated(self) -> bool:
        """Whether times are those of a depth that was not run."""
        return self.measured_layers != (self.layers,)

    @property
    def whole(self) -> Measured:
        """The unpruned model's row."""
        return self.rows[0]
