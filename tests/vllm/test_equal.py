"""Answers and kept indices are those of ``resprune.attach``: 32 pairs a family and policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from resprune import PruningConfig
from resprune.serving.vllm.asking import reads_question
from tests.vllm import configs
from tests.vllm.harness import Asked, Expected, Oracle, Served, pairs, serve

FAMILIES = {
    "nano-llava": ("llava", "cls_attention", "compact"),
    "nano-llava-next": ("llava_next", "cls_attention", "compact"),
    "nano-qwen2.5-vl": ("qwen2_5_vl", "received_attention", "keep"),
}
KINDS = list(configs.table("l2_norm", "keep", None))
_LEAST_ANSWERS = 5  # a model that says one thing whatever is kept would test nothing


@dataclass
class Both:
    """The same model served and attached."""

    served: Served
    oracle: Oracle
    config: PruningConfig
    asked: list[Asked]

    def policy(self, kind: str) -> Any:
        """The policy of a kind, and the budget that names it."""
        policy = self.config.table[KINDS.index(kind)]
        return policy, getattr(policy.budget, "count", None) or policy.budget.ratio


def both(name: str, folder: Path, **engine: Any) -> Iterator[Both]:
    asked = pairs(name)
    config = configs.config(*FAMILIES[name], [each.question for each in asked])
    with serve(folder, config, **engine) as served:
        yield Both(served, Oracle(folder), config, asked)


@pytest.fixture(scope="module", params=FAMILIES)
def eager(request: Any, folders: dict[str, Path]) -> Iterator[Both]:
    yield from both(request.param, folders[request.param])


def answer(
    both: Both, kind: str, asked: list[Asked]
) -> tuple[Expected, list[list[int]], list[list[int]]]:
    """What is expected of prompts under one policy; ids and kept indices, with nothing cached."""
    _, budget = both.policy(kind)
    expected = both.oracle.answers(asked, both.config, budget)
    both.served.forget()
    both.served.seen()
    ids, lengths = both.served.ask(
        [both.oracle.served(each, resprune_budget=budget) for each in asked]
    )
    assert lengths == expected.lengths
    return expected, ids, both.served.seen()


def check(both: Both, kind: str, asked: list[Asked] | None = None) -> None:
    """Compare ids, lengths and kept indices of prompts under one policy."""
    asked = both.asked if asked is None else asked
    policy, _ = both.policy(kind)
    expected, ids, kept = answer(both, kind, asked)
    assert ids == expected.ids
    assert len({tuple(each) for each in ids}) >= min(_LEAST_ANSWERS, len(asked) // 2)
    if kind == "all":
        tokens = {len(each) for each in kept}
        assert len(tokens) == 1  # every token of every image
        return
    wanted = expected.kept
    if not reads_question(policy):  # one encoding serves all questions about an image
        images = [id(image) for each in asked for image in each.images]
        wanted = [kept for i, kept in enumerate(wanted) if images.index(images[i]) == i]
    assert kept == wanted
    if kind == "adaptive":
        assert len(set(expected.settings)) > 1
        assert 0 < sum(expected.outside) < len(expected.outside)


def check_but_for_ties(both: Both, kind: str) -> None:
    """Compare a rule that turns on near ties: ids where it kept the same, halves where not."""
    expected, ids, seen = answer(both, kind, both.asked)
    kept = [each for each in seen for _ in range(2)]  # two questions an image
    _, budget = both.policy(kind)
    shared = [len({*ours} & {*theirs}) for ours, theirs in zip(kept, expected.kept, strict=True)]
    assert min(shared) >= budget // 2  # the half chosen by attention
    same = [i for i, count in enumerate(shared) if count == budget]
    assert len(same) >= 8
    assert [ids[i] for i in same] == [expected.ids[i] for i in same]


@pytest.mark.parametrize("kind", KINDS)
def test_each_policy(eager: Both, kind: str) -> None:
    if kind == "vispruner":  # float32's rounding in the tower decides between patches of one colour
        check_but_for_ties(eager, kind)
    else:
        check(eager, kind)


@pytest.mark.parametrize("kind", ["alpha 0", "adaptive", "signal", "visionzip"])
def test_several_images(eager: Both, kind: str) -> None:
    images = [each.images[0] for each in eager.asked[::2]]
    asked = [
        Asked(each.question, tuple(images[(i + j) % len(images)] for j in range(2 + i % 2)))
        for i, each in enumerate(eager.asked[:8])
    ]
    expected, ids, _ = answer(eager, kind, asked)
    assert ids == expected.ids


@pytest.mark.parametrize("size", [(56, 112), (168, 60), (37, 90)])
def test_other_shapes_of_images(eager: Both, size: tuple[int, int]) -> None:
    asked = [Asked(each.question, (each.images[0].resize(size),)) for each in eager.asked[:8]]
    check(eager, "signal", asked)
    check(eager, "l2_norm seed", asked)


def check_positions(both: Both, asked: list[Asked], budget: Any) -> None:
    """Compare M-RoPE positions themselves: few answers hang on rows and columns."""
    model = both.served.model
    inner, placed = model.recompute_mrope_positions, []

    def recompute(**arguments: Any) -> Any:
        found = inner(**arguments)
        placed.append(found[1:])
        return found

    model.recompute_mrope_positions = recompute
    try:
        for each in asked:
            placed.clear()
            both.served.forget()  # what is cached is not placed again
            both.served.ask([both.oracle.served(each, resprune_budget=budget)], tokens=1)
            positions, offset = placed[-1]
            prepared = both.oracle.prepared(each, both.config, budget)
            expected = prepared.kwargs["position_ids"][1:, 0]  # without the text row
            assert positions.tolist() == expected.tolist()
            assert offset == int(prepared.next_positions[0]) - expected.shape[1]
    finally:
        model.recompute_mrope_positions = inner


def shapes(asked: list[Asked]) -> list[Asked]:
    """Tall and wide images, alone and together."""
    (first,), (second,) = asked[0].images, asked[2].images
    tall, wide = first.resize((60, 168)), second.resize((168, 60))
    return [Asked(asked[0].question, images) for images in ((tall,), (wide,), (tall, wide, first))]


def test_m_rope_positions(folders: dict[str, Path]) -> None:
    name = "nano-qwen2.5-vl"
    for each in both(name, folders[name]):
        for kind in ("signal", "alpha 0"):
            check_positions(each, shapes(each.asked), each.policy(kind)[1])
    engine = {"enable_chunked_prefill": True, "max_num_batched_tokens": 24, "max_num_seqs": 4}
    for each in both(name, folders[name], **engine):
        check_positions(each, shapes(each.asked), each.policy("signal")[1])


@pytest.mark.parametrize("name", FAMILIES)
def test_prefill_in_chunks_through_an_image(name: str, folders: dict[str, Path]) -> None:
    engine = {"enable_chunked_prefill": True, "max_num_batched_tokens": 24, "max_num_seqs": 4}
    for each in both(name, folders[name], **engine):
        check(each, "signal")
        check(each, "adaptive")
        images = tuple(pair.images[0] for pair in each.asked[:4:2])
        check(each, "l2_norm seed", [Asked(pair.question, images) for pair in each.asked[:4]])


@pytest.mark.parametrize("name", FAMILIES)
def test_compiled(name: str, folders: dict[str, Path]) -> None:
    for each in both(name, folders[name], enforce_eager=False):
        check(each, "signal")
        check(each, "adaptive")
