"""What is kept is in every cache's key, and nothing else: neither mixed up nor encoded twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vllm.harness import Asked
from tests.vllm.test_equal import FAMILIES, Both, both

_BLOCK = 32


@pytest.fixture(scope="module", params=FAMILIES)
def cached(request: Any, folders: dict[str, Path]) -> Iterator[Both]:
    yield from both(request.param, folders[request.param], enable_prefix_caching=True)


def ask_in_turn(
    both: Both, asked: list[Asked], budget: Any
) -> tuple[list[list[int]], list[int], list[list[int]]]:
    """Ids, cached tokens, and what was encoded, each prompt after the one before."""
    ids, hits = [], []
    both.served.seen()
    for each in asked:
        found, _ = both.served.ask([both.oracle.served(each, resprune_budget=budget)])
        ids += found
        hits += both.served.cached
    return ids, hits, both.served.seen()


def two_questions(both: Both) -> list[list[Asked]]:
    """The same image with two questions, in both orders, for some images."""
    found = []
    for first, second in zip(both.asked[:16:2], both.asked[1:16:2], strict=True):
        found += [[first, second], [second, first]]
    return found


@pytest.mark.parametrize("kind", ["adaptive", "signal"])
def test_two_questions_are_two_encodings(cached: Both, kind: str) -> None:
    _, budget = cached.policy(kind)
    differing = 0
    for asked in two_questions(cached):
        cached.served.forget()
        expected = cached.oracle.answers(asked, cached.config, budget)
        ids, hits, kept = ask_in_turn(cached, asked, budget)
        assert ids == expected.ids
        assert kept == expected.kept
        assert hits[1] < _BLOCK  # the blocks of the image are not shared
        differing += kept[0] != kept[1]
        again, hits, kept = ask_in_turn(cached, asked, budget)
        assert again == expected.ids
        assert not kept  # both are remembered
        assert min(hits) >= _BLOCK
    assert differing  # else nothing could have been mixed up


def test_a_policy_that_reads_no_question_shares_one_encoding(cached: Both) -> None:
    policy, budget = cached.policy("alpha 0")
    for asked in two_questions(cached)[:8]:
        cached.served.forget()
        expected = cached.oracle.answers(asked, cached.config, budget)
        ids, hits, kept = ask_in_turn(cached, asked, budget)
        assert ids == expected.ids
        assert kept == expected.kept[:1]
        assert hits[1] >= _BLOCK * (policy.budget.count // _BLOCK)  # its blocks are shared too


def test_two_budgets_are_two_encodings(cached: Both) -> None:
    asked = cached.asked[:1]
    cached.served.forget()
    for kind in ("alpha 0", "divprune", "alpha 0"):
        _, budget = cached.policy(kind)
        expected = cached.oracle.answers(asked, cached.config, budget)
        ids, _, _ = ask_in_turn(cached, asked, budget)
        assert ids == expected.ids


def test_the_image_before_the_last_is_cached(cached: Both) -> None:
    """A second image is placed after one whose blocks come from the cache."""
    first, second, third = (cached.asked[i].images[0] for i in (0, 2, 4))
    question = cached.asked[0].question
    asked = [Asked(question, (first, second)), Asked(question, (first, third))]
    policy, budget = cached.policy("alpha 0")
    cached.served.forget()
    expected = cached.oracle.answers(asked, cached.config, budget)
    ids, hits, kept = ask_in_turn(cached, asked, budget)
    assert ids == expected.ids
    assert hits[1] >= _BLOCK * (policy.budget.count // _BLOCK)
    assert kept == [*expected.kept[:2], expected.kept[3]]
