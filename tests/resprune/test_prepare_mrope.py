"""M-RoPE positions of shortened sequences, against worked examples and a slow rule."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resprune.prepare_mrope import compacted, image_of_columns, shortened_positions


def _prompt(parts: list[int | tuple[int, int]]) -> tuple[list[list[int]], list[int]]:
    """Positions and owners of a prompt of text runs (a length) and images (rows, columns)."""
    places, owners, following, image = [], [], 0, 0
    for part in parts:
        if isinstance(part, int):
            places += [[following + i] * 3 for i in range(part)]
            owners += [-1] * part
            following += part
        else:
            rows, columns = part
            places += [
                [following, following + r, following + c]
                for r in range(rows)
                for c in range(columns)
            ]
            owners += [image] * (rows * columns)
            following, image = following + max(part), image + 1
    return places, owners


def test_worked_example() -> None:
    """Two of text, an image of 3 x 4 of which (0, 1), (2, 1) and (2, 3) stay, one of text."""
    places, owners = _prompt([2, (3, 4), 1])
    kept = [0, 1, 2 + 1, 2 + 9, 2 + 11, 14]
    positions = torch.tensor(places).T[:, kept]
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 6],
        [0, 1, 2, 4, 4, 6],
        [0, 1, 3, 3, 5, 6],
    ]
    found, following = compacted(positions, torch.tensor(owners)[kept])
    assert found.tolist() == [
        [0, 1, 2, 2, 2, 4],
        [0, 1, 2, 3, 3, 4],
        [0, 1, 2, 2, 3, 4],
    ]
    assert following == 5


_PARTS = st.lists(
    st.one_of(st.integers(1, 3), st.tuples(st.integers(1, 4), st.integers(1, 4))),
    min_size=1,
    max_size=5,
)


@settings(max_examples=50, deadline=None)
@given(parts=_PARTS, data=st.data())
def test_compact_keeps_order_and_closes_gaps(
    parts: list[int | tuple[int, int]], data: st.DataObject
) -> None:
    parts = [part for p in parts for part in (p, 1)]  # text between images
    places, owners = _prompt(parts)
    full, following = compacted(torch.tensor(places).T, torch.tensor(owners))
    assert full.T.tolist() == places  # the identity where nothing is dropped
    assert following == max(map(max, places)) + 1

    images = max(owners) + 1
    kept = [column for column, owner in enumerate(owners) if owner < 0]
    for image in range(images):
        columns = [column for column, owner in enumerate(owners) if owner == image]
        kept += data.draw(st.sets(st.sampled_from(columns), min_size=1))
    kept.sort()
    found, following = compacted(torch.tensor(places).T[:, kept], torch.tensor(owners)[kept])
    for axis in range(3):
        old = [places[column][axis] for column in kept]
        for i, a in enumerate(kept):
            for j, b in enumerate(kept):
                if owners[a] == owners[b] >= 0:
                    # inside an image the order of an axis, ties included, stays as it was
                    before = (old[i] > old[j]) - (old[i] < old[j])
                    after = int(found[axis, i] > found[axis, j]) - int(
                        found[axis, i] < found[axis, j]
                    )
                    assert before == after
    used = sorted(set(found.flatten().tolist()))
    assert used == list(range(following))  # no gap over the axes together


def test_rows_are_placed_where_their_padding_lets_them() -> None:
    original = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 2, 3, 4]]).expand(3, 2, 5)
    present = torch.tensor([[False, True, True, True, True], [True] * 5])
    columns = [torch.tensor([1, 4]), torch.tensor([0, 2, 4])]
    images = image_of_columns(torch.tensor([[0, 1, 9, 9, 1], [9, 9, 9, 1, 1]]), [2, 3], 9, columns)
    assert [owner.tolist() for owner in images] == [[-1, -1], [1, 1, -1]]
    mask = torch.tensor([[False, True, True], [True, True, True]])
    placed = shortened_positions(original, present, columns, images, mask, compact=False)
    assert placed.position_ids[0].tolist() == [[0, 0, 1], [0, 1, 2]]
    assert placed.position_ids[1].tolist() == [[0, 0, 3], [0, 2, 4]]
    assert placed.next_positions.tolist() == [4, 5]
