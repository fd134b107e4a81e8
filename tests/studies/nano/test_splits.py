"""Splits share no image, and a larger count only adds questions."""

import itertools

import pytest

from resprune.errors import ResPruneError
from studies.nano.splits import SCENES_PER_SPLIT, SPLITS, iter_questions, scene_seed


def test_splits_share_no_scene():
    seeds = {split: {q.scene_seed for q in iter_questions(split, 800)} for split in SPLITS}
    for one, two in itertools.combinations(SPLITS, 2):
        assert not seeds[one] & seeds[two]
    ends = [(scene_seed(s, 0), scene_seed(s, SCENES_PER_SPLIT - 1)) for s in SPLITS]
    for (_, end), (start, _) in itertools.pairwise(sorted(ends)):
        assert end < start


def test_a_larger_count_extends_a_smaller_one():
    many = iter_questions("tune", 100)
    for count in (0, 1, 7, 8, 9, 64):
        assert iter_questions("tune", count) == many[:count]
    for offset, count in ((3, 5), (8, 16), (15, 2), (99, 1)):
        assert iter_questions("tune", count, offset) == many[offset : offset + count]


def test_no_question_comes_twice():
    asked = iter_questions("report", 3000)
    assert len({(q.image_id, q.text) for q in asked}) == 3000
    assert len({q.id for q in asked}) == 3000
    assert len({q.image_id for q in asked}) == 375


def test_bad_arguments_are_named():
    with pytest.raises(ResPruneError, match="unknown split 'test'"):
        iter_questions("test", 1)
    with pytest.raises(ResPruneError, match="-2"):
        iter_questions("tune", -2)
    with pytest.raises(ResPruneError, match="scene 10000000 of split"):
        scene_seed("tune", SCENES_PER_SPLIT)
