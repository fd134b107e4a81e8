"""Break-even against brute force on a machine whose costs are known."""

from dataclasses import replace

import pytest

from resprune.budget import Count, Ratio
from tuner.efficiency.break_even import Costs, break_even
from tuner.efficiency.flops import Decoder
from tuner.efficiency.stopwatch import Timed

DECODER = Decoder(
    layers=4, hidden=128, intermediate=512, heads=4, kv_heads=2, head_dim=32, vocabulary=900
)
TEXT, TOTAL = 40, 196


class Machine:
    """Takes so long for a call, a FLOP and a (token, kept) pair of the selection."""

    def __init__(self, call_ms=3.0, ms_per_flop=2e-8, read_ms=1.0, select_ms=2.0, decoder=DECODER):
        self.call_ms, self.ms_per_flop, self.read_ms = call_ms, ms_per_flop, read_ms
        self.decoder, self._per_pair = decoder, select_ms / (TOTAL * 98 * DECODER.hidden)
        self.floor = 0.0  # what the calls of a selection cost at least

    def timed(self, total, kept):
        rows = (TEXT + kept,) * self.decoder.layers
        prefill = self.call_ms + self.ms_per_flop * self.decoder.prefill_flops(rows)
        pruned = kept < total
        return Timed(
            vision_ms=5.0,
            read_ms=self.read_ms * pruned,
            select_ms=max(self.floor, self.select_ms(total, kept)) * pruned,
            prepare_ms=0.0,
            prefill_ms=prefill,
            other_ms=1.0,
            decode_ms=1.0,
            new_tokens=4,
            batch=1,
            rows_per_layer=rows,
            kept=kept,
            visual_tokens=total,
        )

    def select_ms(self, total, kept):
        return self._per_pair * total * kept * self.decoder.hidden

    def pays(self, total, kept):
        return self.timed(total, kept).first_token_ms < self.timed(total, total).first_token_ms

    def costs(self, kept):
        self.floor = self.select_ms(TOTAL, kept)
        pair = [self.timed(TOTAL, TOTAL)] * 6, [self.timed(TOTAL, kept)] * 6
        return Costs.of(self.decoder, *pair)


MACHINES = [
    Machine(),
    Machine(call_ms=50.0, read_ms=4.0),
    Machine(ms_per_flop=2e-9),
    Machine(read_ms=0.0, select_ms=0.5),
]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kept", [98, 22])
def test_the_length_is_where_pruning_to_a_count_begins_to_pay(machine, kept):
    found = break_even(machine.costs(kept), Count(count=kept)).visual_tokens
    paying = [total for total in range(1, 20_000) if total > kept and machine.pays(total, kept)]
    assert found == paying[0]
    assert paying == list(range(found, 20_000))  # and then at every length


@pytest.mark.parametrize("machine", MACHINES)
def test_the_length_of_a_ratio(machine):
    found = break_even(machine.costs(98), Ratio(ratio=0.5)).visual_tokens
    paying = [total for total in range(2, 20_000, 2) if machine.pays(total, total / 2)]
    if found is None:
        assert paying[-1:] != [19_998]
    else:
        assert paying[0] - found in (0, 1)  # only even lengths were tried
        assert paying[-1] == 19_998


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kept", [98, 22])
def test_the_size_is_where_a_wider_model_begins_to_pay(machine, kept):
    found = break_even(machine.costs(kept), Count(count=kept)).parameters

    def pays(s):
        wider = replace(
            DECODER,
            hidden=128 * s,
            intermediate=512 * s,
            head_dim=32 * s,
        )
        scaled = Machine(machine.call_ms, machine.ms_per_flop, machine.read_ms, decoder=wider)
        scaled._per_pair, scaled.floor = machine._per_pair, machine.floor
        return scaled.pays(TOTAL, kept)

    s = (found / DECODER.parameters) ** 0.5
    assert pays(max(s, 0.01) * 1.001)  # 0 where it pays at any size
    assert s == 0 or not pays(s * 0.999)


def test_a_machine_that_gains_nothing_from_fewer_tokens_has_no_break_even():
    costs = replace(MACHINES[0].costs(22), ms_per_flop=-1e-9)
    found = break_even(costs, Count(count=22))
    assert (found.visual_tokens, found.parameters) == (None, None)


def test_layers_that_keep_all_tokens_save_nothing():
    costs = MACHINES[0].costs(22)
    half = replace(costs, rows=costs.whole_rows[:2] + costs.rows[2:])
    late = break_even(half, Count(count=22))
    early = break_even(costs, Count(count=22))
    assert late.visual_tokens > early.visual_tokens
    assert late.parameters > early.parameters
