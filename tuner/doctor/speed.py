"""The speed-up of the first token: what the bench measures, what the arithmetic promises, and why.

The bench is that of ``resprune-tune bench``, in few rounds.
"""

from __future__ import annotations

from collections.abc import Iterator

from resprune.alpha import AlphaPredictor
from resprune.backbones import Backbone
from resprune.setting import Adaptive, Setting
from tuner.doctor.schema import Speed
from tuner.efficiency.measure import ImagePrompt
from tuner.efficiency.ratios import LEAST_ROUNDS
from tuner.efficiency.runs import Plan, bench
from tuner.results.efficiency import Efficiency, Spread

PLAN = Plan(repeats=LEAST_ROUNDS, new_tokens=4, batches=(1,), prompts=1)
_SMALL = 0.05  # share of the saving under which what eats it is not worth a word


def measure_speed(
    backbone: Backbone,
    prompt: ImagePrompt,
    policy: Setting | Adaptive,
    predictor: AlphaPredictor | None,
    model: str,
) -> Speed | str:
    """Measure a policy on one prompt; a sentence where it cannot be measured.

    Args:
        backbone: The model.
        prompt: The prompt.
        policy: The policy.
        predictor: Of an adaptive policy.
        model: The model's name.
    """
    found = bench(
        backbone, [prompt], [policy], PLAN, model=model, source="one image", predictor=predictor
    )
    row = found.rows[-1]
    if row.error is not None or row.first_token is None:
        return row.error or found.whole.error or "it was not measured"
    return judge(found)


def judge(found: Efficiency) -> Speed:
    """Hold a run of the bench against what its arithmetic promises.

    Args:
        found: A run with one policy, which was measured.
    """
    whole, row = found.whole, found.rows[-1]
    assert whole.prefill_flops
    assert row.prefill_flops
    assert row.first_token
    first, prefill = _ms(whole.first_token_ms), _ms(whole.prefill_ms)
    share = row.prefill_flops / whole.prefill_flops
    saving = prefill * (1 - share)
    expected = first / (first - saving)
    ratio = row.first_token.ratio
    return Speed(
        measured=found,
        prefill_share=prefill / first,
        vision_share=_ms(whole.vision_ms) / first,
        flops_share=share,
        expected_prefill=1 / share,
        expected=expected,
        ratio=ratio,
        reasons=tuple(_reasons(found, saving, prefill * share)) if ratio < expected else (),
    )


def _reasons(found: Efficiency, saving: float, promised: float) -> Iterator[str]:
    """Say what eats the saving, largest first.

    Args:
        found: The run.
        saving: Milliseconds that the prefill should save.
        promised: Milliseconds that the pruned prefill should take.
    """
    whole, row = found.whole, found.rows[-1]
    tower = _ms(row.vision_ms) - _ms(whole.vision_ms)
    device = "a CPU" if "CPU" in found.device else "this GPU"
    lost = [
        (
            _ms(row.prefill_ms) - promised,
            f"the pruned prefill takes {_ms(row.prefill_ms):.1f} ms, not {promised:.1f}: with "
            f"{_count(found.parameters)} parameters in the layers, what {device} spends on calls "
            "does not shrink with the prompt",
        ),
        (_ms(row.select_ms), f"choosing the tokens takes {_ms(row.select_ms):.1f} ms"),
        (_ms(row.read_ms), f"reading the question takes {_ms(row.read_ms):.1f} ms"),
        (_ms(row.prepare_ms), f"making the shorter inputs takes {_ms(row.prepare_ms):.1f} ms"),
        (tower, f"the vision tower takes {tower:.1f} ms more than without pruning"),
    ]
    worth = [(ms, text) for ms, text in lost if ms > _SMALL * saving]
    yield from (text for _, text in sorted(worth, reverse=True))


def _ms(value: Spread | None) -> float:
    return 0.0 if value is None else value.median


def _count(number: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
