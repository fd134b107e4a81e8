"""Peak memory is that of the call, not of what came before."""

import pytest
import torch

from tuner.efficiency.memory import with_peak

MB = 1 << 20


def test_the_peak_is_that_of_the_call():
    def call(megabytes):
        return float(torch.ones(megabytes * MB // 4).sum())

    cpu = torch.device("cpu")
    call(1)
    _, large = with_peak(lambda: call(256), cpu)
    if large is None:
        pytest.skip("this system does not tell the peak")
    value, small = with_peak(lambda: call(32), cpu)
    assert value == 32 * MB / 4
    assert 240 * MB < large < 320 * MB
    assert small < 64 * MB
