"""What the adapter tells: tokens, signals, boxes, facts."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import resprune
from resprune.testing.backbones.suite import Suite
from resprune.testing.calls import forward_logits
from resprune.testing.case import Case


class Description(Suite):
    """What the adapter says of images and of its family must hold."""

    def test_images_are_described(self, case: Case) -> None:
        """Lengths are those of the ids; signals are finite scores, one a token."""
        inputs = case.inputs([0], [1, 2], [], [3])
        lengths = case.backbone.image_lengths(inputs)
        placeholders = (inputs["input_ids"] == case.backbone.image_token_id).sum(dim=1).tolist()
        assert [lengths[0], lengths[1] + lengths[2], 0, lengths[3]] == placeholders
        found = case.backbone.encode(inputs, signals=case.backbone.seed_signals)
        for visual, length in zip(found, lengths, strict=True):
            assert visual.tokens.shape[0] <= length
            assert visual.tokens.shape[1] == case.backbone.width
            assert not visual.tokens.requires_grad
            assert set(visual.signals) == set(case.backbone.seed_signals)
            for scores in visual.signals.values():
                assert scores.shape == visual.tokens.shape[:1]
                assert scores.dtype == torch.float32
                assert bool((scores.isfinite() & (scores >= 0)).all())

    def test_every_seed_strategy_works(self, case: Case) -> None:
        """The family's signals and what needs none; another signal says what to use instead."""
        inputs = case.one(0, [0, 1])
        offered = case.backbone.seed_signals
        for strategy in (*offered, "l2_norm", "relevance", "none"):
            config = dataclasses.replace(case, seed_strategy=strategy).config()
            with resprune.attach(case.model, case.processor, config) as attachment:
                forward_logits(case.model, inputs)
                assert attachment.last is not None
                assert [len(order) for order in attachment.last.order] == [case.budget] * 2
        for name in {"cls_attention", "received_attention"} - set(offered):
            with pytest.raises(resprune.ResPruneError, match=f"no '{name}' signal.*l2_norm"):
                case.backbone.encode(inputs, signals=[name])

    def test_boxes_tile_the_view(self, case: Case) -> None:
        """The boxes of one view leave nothing out and cover nothing twice."""
        inputs = case.inputs([0], [1, 2], [3])
        sizes = [(image.height, image.width) for image in case.images[:4]]
        found = case.backbone.encode(inputs, image_sizes=sizes)
        assert len(found) == len(sizes)
        for visual in found:
            assert visual.boxes is not None
            places = visual.tile_row_column()
            assert len(places) == len(visual.boxes) == len(visual.tokens)
            if visual.grid != (0, 0):
                assert len(visual.tokens) == visual.grid[0] * visual.grid[1]
            for tile in torch.unique(places[:, 0]).tolist():
                mine = places[:, 0] == tile
                lines = [torch.unique(places[mine, axis]).tolist() for axis in (1, 2)]
                cells = places[mine, 1:].tolist()
                assert cells == [[row, column] for row in lines[0] for column in lines[1]]
                rows, columns = (len(line) for line in lines)
                boxes = visual.boxes[mine].view(rows, columns, 4)
                assert bool((boxes[..., 2] > boxes[..., 0]).all())
                assert bool((boxes[..., 3] > boxes[..., 1]).all())
                # neighbours share an edge, so nothing is left out and nothing is covered twice
                torch.testing.assert_close(boxes[:, :-1, 2], boxes[:, 1:, 0])
                torch.testing.assert_close(boxes[:-1, :, 3], boxes[1:, :, 1])
                torch.testing.assert_close(boxes[:, :, 1], boxes[:, :1, 1].expand(rows, columns))
                torch.testing.assert_close(boxes[:, :, 0], boxes[:1, :, 0].expand(rows, columns))

    def test_facts_hold_for_the_model(self, case: Case) -> None:
        """What the table of backbones says of the family is true of this model."""
        backbone = case.backbone
        known = backbone.transformers_classes
        assert not known or type(case.model).__name__ in known
        assert set(backbone.seed_signals) <= set(backbone.offered_signals)
        inputs = case.inputs([0])
        visual = backbone.encode(inputs)
        prepared = backbone.prepare(inputs, visual, [torch.arange(1)])
        flat = backbone.position_axes == "1-D"
        assert prepared.kwargs["position_ids"].ndim == (2 if flat else 3)
