"""The prepare step against plain loops over rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from resprune.errors import ResPruneError
from resprune.prepare import image_rows, shorten

IMAGE, PAD = 9, 0


def by_hand(
    ids: Tensor, mask: Tensor, kept: list[list[int]], lengths: list[int]
) -> list[list[tuple[int, int]]]:
    """(token, original position) of what stays, row by row."""
    image = index = 0
    rows = []
    for row_ids, row_mask in zip(ids.tolist(), mask.tolist(), strict=True):
        row, place = [], 0
        for token, present in zip(row_ids, row_mask, strict=True):
            stays = bool(present)
            if token == IMAGE:
                stays = stays and index in kept[image]
                index += 1
                if index == lengths[image]:
                    image, index = image + 1, 0
            if stays:
                row.append((token, place))
            place += present
        rows.append(row)
    return rows


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    rows: list[list[int]] = []
    lengths: list[int] = []
    kept: list[list[int]] = []
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.lists(st.integers(1, 8), max_size=3))
        for _ in range(draw(st.integers(0, 2))):
            length = draw(st.integers(1, 4))
            lengths.append(length)
            kept.append(sorted(draw(st.sets(st.integers(0, length - 1), min_size=1))))
            row = row + [IMAGE] * length + draw(st.lists(st.integers(1, 8), max_size=2))
        rows.append([*row, 5])
    side = draw(st.sampled_from(["left", "right"]))
    width = max(len(row) for row in rows) + draw(st.integers(0, 2))
    pads = [[PAD] * (width - len(row)) for row in rows]
    masks = [[0] * len(pad) for pad in pads]
    real = [[1] * len(row) for row in rows]
    join = (lambda a, b: a + b) if side == "left" else (lambda a, b: b + a)
    return {
        "ids": torch.tensor([join(a, b) for a, b in zip(pads, rows, strict=True)]),
        "mask": torch.tensor([join(a, b) for a, b in zip(masks, real, strict=True)]),
        "lengths": lengths,
        "kept": kept,
    }


@settings(max_examples=150, deadline=None)
@given(batches(), st.sampled_from(["left", "right"]), st.sampled_from(["keep", "compact"]))
def test_equals_a_loop(batch: dict[str, Any], side: str, positions: str) -> None:
    ids, mask = batch["ids"], batch["mask"]
    visual = [torch.rand(length, 2) for length in batch["lengths"]]
    kept = [torch.tensor(keep) for keep in batch["kept"]]
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": ids * 10}
    prepared = shorten(
        inputs,
        visual,
        kept,
        image_token_id=IMAGE,
        pad_token_id=PAD,
        positions=positions,
        padding_side=side,
    )
    expected = by_hand(ids, mask, batch["kept"], batch["lengths"])
    out = prepared.kwargs
    width = max(len(row) for row in expected)
    assert out["input_ids"].shape == (len(expected), width)
    for row, wanted in enumerate(expected):
        n = len(wanted)
        real = slice(width - n, None) if side == "left" else slice(n)
        assert prepared.lengths[row] == n
        assert out["attention_mask"][row].sum() == n
        assert out["attention_mask"][row, real].tolist() == [1] * n
        assert out["input_ids"][row, real].tolist() == [token for token, _ in wanted]
        assert out["labels"][row, real].tolist() == [token * 10 for token, _ in wanted]
        places = [place for _, place in wanted] if positions == "keep" else list(range(n))
        assert out["position_ids"][row, real].tolist() == places
        padding = out["attention_mask"][row] == 0
        assert set(out["labels"][row, padding].tolist()) <= {-100}
        assert set(out["input_ids"][row, padding].tolist()) <= {PAD}
        kept_ids = ids[row, prepared.kept_positions[row]]
        assert kept_ids.tolist() == [token for token, _ in wanted]
    if visual:
        features = out["mm_encoder_outputs"]["image"].pooler_output
        for tokens, keep, feature in zip(visual, batch["kept"], features, strict=True):
            assert torch.equal(feature, torch.stack([tokens[i] for i in keep]))
    else:
        assert "mm_encoder_outputs" not in out


def prepare(**changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "inputs": {"input_ids": torch.tensor([[1, IMAGE, IMAGE, IMAGE, 2]])},
        "visual": [torch.rand(3, 2)],
        "kept": [torch.tensor([0, 2])],
        "image_token_id": IMAGE,
        "pad_token_id": PAD,
    }
    arguments.update(changes)
    inputs, visual, kept = (arguments.pop(name) for name in ("inputs", "visual", "kept"))
    return shorten(inputs, visual, kept, **arguments)


def test_a_mask_is_always_given() -> None:
    """Without one, positions with gaps are taken for packed sequences."""
    assert prepare().kwargs["attention_mask"].tolist() == [[1, 1, 1, 1]]
    assert prepare().kwargs["position_ids"].tolist() == [[0, 1, 3, 4]]


def test_the_callers_positions_are_kept() -> None:
    ids = torch.tensor([[1, IMAGE, IMAGE, IMAGE, 2]])
    inputs = {"input_ids": ids, "position_ids": torch.tensor([[7, 8, 9, 10, 11]])}
    assert prepare(inputs=inputs).kwargs["position_ids"].tolist() == [[7, 8, 10, 11]]


def test_nothing_is_shared() -> None:
    visual = [torch.rand(3, 2)]
    before = visual[0].clone()
    first, second = prepare(visual=visual), prepare(visual=visual)
    for made in (first, second):
        for value in (*made.kwargs["mm_encoder_outputs"]["image"].pooler_output,):
            value.zero_()
        made.kwargs["mm_encoder_outputs"].clear()
    assert torch.equal(visual[0], before)


def test_features_can_be_replaced() -> None:
    new = torch.rand(2, 2)
    pooled = prepare(features=[new]).kwargs["mm_encoder_outputs"]["image"].pooler_output
    assert torch.equal(pooled[0], new)
    assert pooled[0] is not new
    with pytest.raises(ResPruneError, match="features have 1 rows for 2 kept"):
        prepare(features=[new[:1]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kept": [torch.tensor([0, 3])]}, "reach from 0 to 3; it has 3"),
        ({"kept": [torch.tensor([-1, 1])]}, "reach from -1 to 1"),
        ({"kept": [torch.tensor([2, 0])]}, "not sorted and unique"),
        ({"kept": [torch.tensor([1, 1])]}, "not sorted and unique"),
        ({"kept": [torch.tensor([True, False, True])]}, "1-D int64"),
        ({"kept": []}, "0 entries for 1 images"),
        ({"visual": [torch.rand(2, 2)]}, "3 image placeholders and the 1 images 2"),
        ({"visual": [], "kept": []}, "3 image placeholders and the 0 images 0"),
        ({"positions": "kept"}, r"unknown positions 'kept'. Did you mean 'keep'"),
        ({"padding_side": "middle"}, "unknown padding_side"),
    ],
)
def test_wrong_input_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ResPruneError, match=message):
        prepare(**changes)


def test_shapes_must_agree() -> None:
    ids = torch.tensor([[1, IMAGE, IMAGE, IMAGE, 2]])
    with pytest.raises(ResPruneError, match="attention_mask has shape"):
        prepare(inputs={"input_ids": ids, "attention_mask": torch.ones(1, 4)})
    with pytest.raises(ResPruneError, match="position_ids have shape"):
        prepare(inputs={"input_ids": ids, "position_ids": torch.ones(3, 1, 5)})


def test_an_image_lies_in_one_row() -> None:
    ids = torch.tensor([[1, IMAGE], [IMAGE, 2]])
    assert image_rows(ids, [1, 1], IMAGE) == [0, 1]
    with pytest.raises(ResPruneError, match="image 0 begins in row 0 of input_ids and ends in"):
        image_rows(ids, [2], IMAGE)
