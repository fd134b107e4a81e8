"""The measure of dense positions runs, and finds a loss where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import positions


def test_it_runs_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "SHARES", (1.0, 0.5))
    whole, rows = positions.measure("nano-llava", 24, 100_000, tmp_path)
    assert [row.share for row in rows] == [1.0] * 3 + [0.5] * 3
    for row in rows[:3]:  # no gap to close
        assert (row.score, row.loss) == (whole, 0.0)
    assert {row.setting for row in rows} == set(positions.settings("llava", 0.5))
    assert all(row.low <= row.loss <= row.high for row in rows)


def test_only_positions_differ() -> None:
    for setting in positions.settings("qwen2_5_vl", 0.25).values():
        assert setting.positions == "keep"
