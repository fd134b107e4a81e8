"""The rules inside the LLM against re-statements in float64, and against published picks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resprune import methods
from resprune.errors import ResPruneError
from resprune.methods.layers import LayerMethod
from resprune.methods.layers.sparsevlm import density_peaks
from resprune.testing.layers import Dropped, MadeUpPrompt, made_up, run_rule

SEEDS = range(4)
SHALLOW = {"pyramiddrop": (1, 2, 3), "sparsevlm": (1, 2, 3)}
DEEP = {"pyramiddrop": (8, 16, 24), "sparsevlm": (3, 7, 16)}


def inside(name: str) -> LayerMethod[Any]:
    method = methods.get(name)
    assert isinstance(method, LayerMethod)
    return method


def run(name: str, prompt: MadeUpPrompt, k: int, **options: Any) -> dict[int, Dropped]:
    method = inside(name)
    [found] = run_rule(method, method.options(**options), [prompt], k)
    return found


def counts_of(name: str, tokens: int, k: int, depth: int = 32) -> list[int]:
    method = inside(name)
    return list(method.schedule(method.options(), depth, tokens, k).values())


def kept(found: dict[int, Dropped]) -> dict[int, list[int]]:
    return {layer: drop.kept.tolist() for layer, drop in found.items()}


def attention(prompt: MadeUpPrompt, layer: int, query: int, seen: list[int]) -> dict[int, float]:
    """What one place attends to, mean over heads, where only some places are left."""
    queries, keys = prompt.queries[layer].double().numpy(), prompt.keys[layer].double().numpy()
    share, seen = len(queries) // len(keys), [place for place in seen if place <= query]
    total = np.zeros(len(seen))
    for head in range(len(queries)):
        logits = keys[head // share][seen] @ queries[head, query] / np.sqrt(keys.shape[2])
        weights = np.exp(logits - logits.max())
        total += weights / weights.sum() / len(queries)
    return dict(zip(seen, total, strict=True))


def best(scores: dict[int, float], places: list[int], count: int) -> list[int]:
    return sorted(sorted(places, key=lambda place: (-scores[place], place))[:count])


def split(prompt: MadeUpPrompt) -> tuple[list[int], list[int]]:
    """The visual tokens, and the text before and behind them."""
    visual = prompt.visual.tolist()
    return visual, [p for p in range(prompt.hidden.shape[1]) if p not in visual]


# -- FastV, PyramidDrop --------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("depth", "option", "layer"), [(4, 2, 1), (4, 16, 2), (32, 2, 2)])
def test_fastv(seed: int, depth: int, option: int, layer: int) -> None:
    prompt = made_up(15, seed, depth)
    visual, text = split(prompt)
    scores = attention(prompt, layer - 1, text[-1], visual + text)
    for k in (1, 6, 14):
        assert kept(run("fastv", prompt, k, layer=option)) == {layer: best(scores, visual, k)}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("depth", [4, 32])
def test_pyramiddrop(seed: int, depth: int) -> None:
    prompt = made_up(16, seed, depth)
    left, text = split(prompt)
    found = kept(run("pyramiddrop", prompt, 2))
    layers = (SHALLOW if depth == 4 else DEEP)["pyramiddrop"]
    for layer, count in zip(layers, (8, 4, 2), strict=True):
        left = best(attention(prompt, layer, text[-1], left + text), left, count)
        assert found[layer] == left
    assert len(found) == 3


# -- DART ----------------------------------------------------------------------------------


def dart(prompt: MadeUpPrompt, layer: int, k: int, image: int, text: int) -> list[int]:
    visual, around = split(prompt)
    behind = [place for place in around if place > visual[-1]]
    norms = np.abs(prompt.keys[layer - 1].double().numpy()).sum(axis=(0, 2))
    states = prompt.hidden[layer].double().numpy()
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    anchors = best(dict(enumerate(norms)), visual, min(image, k))
    pivots = list(set(anchors + best(dict(enumerate(norms)), behind, text)))
    chosen, rest = list(anchors), [place for place in visual if place not in anchors]
    for number, pivot in enumerate(pivots):
        more = (k - len(anchors)) // len(pivots) + (number < (k - len(anchors)) % len(pivots))
        for _ in range(more):
            least = min(rest, key=lambda place: (unit[place] @ unit[pivot], place))
            chosen.append(least)
            rest.remove(least)
    return sorted(chosen)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("image", "text"), [(4, 4), (1, 0), (8, 2)])
def test_dart(seed: int, image: int, text: int) -> None:
    prompt = made_up(60, seed)  # long enough for a set's order to differ from the sorted one
    for k in (*range(1, 30), 45, 59, 60):
        found = kept(run("dart", prompt, k, image_pivots=image, text_pivots=text))
        assert found == {1: dart(prompt, 1, k, image, text)}


class PublishedView:
    """The layer of the reference picks; it gives states as they are under the final norm."""

    def __init__(self, data: dict[str, torch.Tensor], index: int, count: int, padding: int) -> None:
        states, keys = data["hidden_states"], data["key_states"]
        first = padding + int(data["image_start"])
        behind = first + int(data["image_length"])
        pad = torch.nn.functional.pad
        self.index, self.depth, self.counts = index, 32, [count]
        self.hidden = pad(states, (0, 0, padding, 0), value=9.0)[None]
        self._keys = pad(keys, (0, 0, padding, 0), value=9.0)[None]
        self.valid = (torch.arange(padding + len(states)) >= padding)[None]
        self.visual = [torch.arange(first, behind)]
        self.text = [torch.arange(behind, padding + len(states))]

    def keys(self) -> torch.Tensor:
        return self._keys

    def normed(self) -> torch.Tensor:
        return self.hidden

    def attention(self, row: int, slots: torch.Tensor) -> torch.Tensor:
        raise AssertionError("DART reads no attention")


@pytest.mark.parametrize("width", [64, 1024])
@pytest.mark.parametrize("asked", [16, 48])
@pytest.mark.parametrize("padding", [0, 7])
def test_dart_picks_what_public_code_picks(width: int, asked: int, padding: int) -> None:
    beside = Path(__file__).resolve().parents[5] / "shared" / "vectors"
    path = Path(os.environ.get("RESPRUNE_VECTORS", beside)) / f"dart_T144_d{width}.npz"
    if not path.exists():
        pytest.skip(f"no reference picks at {path}; name their folder in RESPRUNE_VECTORS")
    with np.load(path, allow_pickle=False) as archive:
        data = {key: torch.from_numpy(np.asarray(archive[key])) for key in archive.files}
    expected, memory = data[f"selected_sorted_k{asked}"], dict[str, Any]()
    method = inside("dart")
    for index in (1, 2):
        view = PublishedView(data, index, len(expected), padding)
        drop = method.visit(view, memory, method.options())
    assert drop is not None
    assert (drop.kept[0] - view.visual[0][0]).tolist() == expected.tolist()


# -- SparseVLM -----------------------------------------------------------------------------


def raters(prompt: MadeUpPrompt) -> list[int]:
    visual, around = split(prompt)
    behind = [place for place in around if place > visual[-1]]
    hidden = prompt.hidden[0].double().numpy()
    likeness = np.zeros(len(behind))
    for place in visual:
        weights = np.exp(hidden[behind] @ hidden[place])
        likeness += weights / weights.sum() / len(visual)
    return [place for place, like in zip(behind, likeness, strict=True) if like > likeness.mean()]


def recycled(dropped: int) -> tuple[int, int]:
    """The pool and the clusters of published code."""
    pool = int(dropped * 0.3) + 1
    return pool, int(pool / 10) + 1


def peaks(x: np.ndarray, count: int) -> tuple[list[int], list[np.ndarray]]:
    """Density peaks, a loop at a time; of equal densities the lower place is the higher."""
    n = len(x)
    apart = np.array([[np.linalg.norm(a - b) for b in x] for a in x]) / np.sqrt(x.shape[1])
    density = [np.exp(-np.mean(np.sort(apart[i])[:count] ** 2)) for i in range(n)]
    score = []
    for i in range(n):
        parents = [apart[i, j] for j in range(n) if (density[j], -j) > (density[i], -i)]
        score.append(density[i] * min(parents, default=apart.max()))
    centres = best(dict(enumerate(score)), list(range(n)), count)
    member = [min(centres, key=lambda c: apart[i, c]) for i in range(n)]
    for centre in centres:
        member[centre] = centre
    return centres, [x[[m == c for m in member]].mean(axis=0) for c in centres]


def sparsevlm(
    prompt: MadeUpPrompt, layers: tuple[int, ...], counts: list[int], recycle: bool
) -> dict[int, tuple[list[int], list[int], list[np.ndarray]]]:
    left, text = split(prompt)
    rating, found = raters(prompt), {}
    for layer, count in zip(layers, counts, strict=True):
        scores = dict.fromkeys(left, 0.0)
        for rater in rating:
            own = attention(prompt, layer - 1, rater, left + text)
            scores = {place: scores[place] + own[place] for place in left}
        plain = count
        if recycle and count < len(left):
            while plain and plain + recycled(len(left) - plain)[1] > count:
                plain -= 1
        stay = best(scores, left, plain)
        out = [place for place in left if place not in stay]
        centres: list[int] = []
        means: list[np.ndarray] = []
        if plain < count:
            pool = best(scores, out, recycled(len(out))[0])
            picked, means = peaks(prompt.hidden[layer, pool].double().numpy(), count - plain)
            centres = [pool[i] for i in picked]
        left = sorted(stay + centres)
        found[layer] = (left, centres, means)
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("depth", [4, 32])
@pytest.mark.parametrize("recycle", ["on", "off"])
def test_sparsevlm(seed: int, depth: int, recycle: str) -> None:
    prompt = made_up(150, seed, depth, after=7)
    assert 0 < len(raters(prompt)) < 7
    layers = (SHALLOW if depth == 4 else DEEP)["sparsevlm"]
    for k in (9, 50, 149):
        found = run("sparsevlm", prompt, k, recycle=recycle)
        counts = counts_of("sparsevlm", 150, k)
        expected = sparsevlm(prompt, layers, counts, recycle == "on")
        assert found.keys() == expected.keys()
        for layer, (left, centres, means) in expected.items():
            drop = found[layer]
            assert drop.kept.tolist() == left
            assert (drop.merged is not None) == bool(centres)
            if drop.merged is not None:
                assert drop.merged[0].tolist() == centres
                torch.testing.assert_close(
                    drop.merged[1].double(), torch.from_numpy(np.stack(means)), rtol=0, atol=1e-5
                )


def test_recycled_tokens_are_as_many_as_published() -> None:
    """Published code keeps s by score and adds its clusters: at 576 tokens, 300 and 9."""
    found = run("sparsevlm", made_up(576, depth=4), 113)
    merged = [len(drop.merged[0]) for drop in found.values() if drop.merged]
    assert [len(drop.kept) for drop in found.values()] == [309, 204, 113]
    assert merged == [309 - 300, 204 - 200, 113 - 110]


def test_clusters_that_lie_apart_are_found() -> None:
    draw = np.random.default_rng(0)
    centres = 40 * np.eye(3, 8)
    label = draw.permutation(np.repeat([0, 1, 2], [5, 9, 7]))
    rows = torch.from_numpy(centres[label] + 0.01 * draw.normal(size=(21, 8))).float()
    picked, means = density_peaks(rows, 3)
    assert sorted(label[picked.numpy()].tolist()) == [0, 1, 2]
    for centre, mean in zip(picked.tolist(), means, strict=True):
        own = rows[torch.from_numpy(label == label[centre])].mean(dim=0)
        torch.testing.assert_close(mean, own)


def test_a_prompt_that_ends_with_the_image_is_rated_by_its_last_token() -> None:
    prompt = made_up(12, after=0)
    scores = attention(prompt, 0, 14, list(range(15)))
    count = counts_of("sparsevlm", 12, 3)[0]
    found = kept(run("sparsevlm", prompt, 3, recycle="off"))
    assert found[1] == best(scores, prompt.visual.tolist(), count)


def test_alike_text_rates_together() -> None:
    """One token behind the image is never above the mean, and rates all the same."""
    prompt = made_up(12, after=1)
    scores = attention(prompt, 0, 15, list(range(16)))
    count = counts_of("sparsevlm", 12, 3)[0]
    found = kept(run("sparsevlm", prompt, 3, recycle="off"))
    assert found[1] == best(scores, prompt.visual.tolist(), count)


# -- all -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop", "dart", "sparsevlm"])
def test_ties_go_to_the_lower_slot(name: str) -> None:
    prompt = made_up(12)
    for part in (prompt.queries, prompt.keys, prompt.hidden):
        part.fill_(0.5)
    found = run(name, prompt, 5, **({"recycle": "off"} if name == "sparsevlm" else {}))
    assert [drop.kept.tolist() for drop in found.values()][-1] == prompt.visual[:5].tolist()


def test_published_counts() -> None:
    for tokens in range(8, 1000):
        published = [int(tokens * share) for share in (0.5, 0.25, 0.125)]
        assert counts_of("pyramiddrop", tokens, published[-1]) == published
    for published in ((309, 204, 113), (312, 117, 39), (249, 55, 27), (82, 32, 18)):
        assert counts_of("sparsevlm", 576, published[-1]) == list(published)


@pytest.mark.parametrize("name", ["pyramiddrop", "sparsevlm"])
def test_other_counts_drop_one_share_each_time(name: str) -> None:
    for tokens in (100, 575, 2880):
        for k in range(10, tokens + 1, 7):
            if name == "pyramiddrop" and k == tokens // 8:
                continue
            first, second, last = counts_of(name, tokens, k)
            assert last == k
            assert first == pytest.approx((tokens * tokens * k) ** (1 / 3), abs=1)
            assert second == pytest.approx((tokens * k * k) ** (1 / 3), abs=1)


def test_layers_scale_with_the_depth() -> None:
    for name, layers in SHALLOW.items():
        method = inside(name)
        assert tuple(method.schedule(method.options(), 4, 36, 9)) == layers
        assert tuple(method.schedule(method.options(), 32, 36, 9)) == DEEP[name]
        with pytest.raises(ResPruneError, match="3 layers"):
            method.schedule(method.options(), 3, 36, 9)


def test_notes_say_what_is_not_as_published() -> None:
    fastv, pyramid = inside("fastv"), inside("pyramiddrop")
    assert fastv.notes(fastv.options(), 32, "keep") == ()
    assert fastv.notes(fastv.options(), 4, "keep") == ("scaled",)
    assert pyramid.notes(pyramid.options(), 32, "compact") == ()
    assert pyramid.notes(pyramid.options(), 28, "keep") == ("scaled", "positions kept")
    assert inside("sparsevlm").published == "compact"
