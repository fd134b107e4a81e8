import numpy as np
import pytest

from resprune.budget import Count
from resprune.certificate import Certificate, CertifySplit, Claim
from resprune.errors import StudyError
from tuner.certificate import Entry, Split, certify, check, drawn_order, order_by_promise
from tuner.certificate.exact import exact_p_value

CLAIM = Claim(loss=0.1)
ENTRIES = [Entry(Count(count=k), k) for k in (98, 43, 22, 11)]
CHOICES = "0" * 32


def one_question_each(n=200, seed=0):
    rng = np.random.default_rng(seed)
    images = [f"image-{i}" for i in range(n)]
    return Split((rng.random(n) < 0.8).astype(float), images, drawn_order(images, seed))


def flipped(unpruned, worse, better):
    scores = unpruned.copy()
    scores[np.flatnonzero(unpruned == 1)[:worse]] = 0
    scores[np.flatnonzero(unpruned == 0)[:better]] = 1
    return scores


def certificate_of(order, split, test="exact", claim=CLAIM, clip=None):
    return Certificate.sealed(
        claim=claim,
        test=test,
        metric="score",
        clip=clip,
        split=CertifySplit(
            name="certify",
            offset=0,
            samples=len(split.images),
            images=len(split.order),
            questions_per_image=split.questions_per_image,
        ),
        attempt=1,
        order=order,
        choices=CHOICES,
    )


def test_stops_at_the_first_failure_and_opens_nothing_after_it():
    split = one_question_each()
    flips = {98: (3, 3), 43: (30, 2), 22: (0, 0), 11: (0, 0)}
    asked = []

    def scores(entry):
        asked.append(entry.tokens)
        return flipped(split.unpruned, *flips[entry.tokens])

    order = certify(ENTRIES, scores, split, CLAIM, "exact")
    assert asked == [98, 43]
    assert [tested.budget for tested in order] == [entry.budget for entry in ENTRIES]
    assert [tested.certified for tested in order] == [True, False, False, False]
    for tested, (worse, better) in zip(order, list(flips.values())[:2], strict=False):
        assert (tested.worse, tested.better) == (worse, better)
        assert tested.loss == pytest.approx((worse - better) / 200)
        assert tested.p_value == exact_p_value(worse, better, 200, 0.1)
        assert tested.margins == ()
    for tested in order[2:]:
        assert (tested.p_value, tested.loss, tested.worse) == (None, None, None)
    check(certificate_of(order, split))


def test_the_level_is_that_of_the_claim():
    split = one_question_each()
    p_value = exact_p_value(20, 10, 200, 0.1)

    def verdict(confidence):
        claim = Claim(loss=0.1, confidence=confidence)
        scores = flipped(split.unpruned, 20, 10)
        return certify(ENTRIES[:1], lambda _: scores, split, claim, "exact")[0].certified

    assert verdict(1 - p_value - 1e-6)
    assert not verdict(1 - p_value + 1e-6)


def several_questions_each(seed=1):
    rng = np.random.default_rng(seed)
    images = [f"image-{i}" for i in range(150) for _ in range(1 + i % 3)]
    split = Split(0.5 + rng.random(len(images)) / 2, images, drawn_order(images, seed), 3)
    return split, np.clip(split.unpruned + rng.normal(0.05, 0.1, len(images)), 0, 1)


@pytest.mark.parametrize("test", ["betting", "t"])
@pytest.mark.parametrize("scale", ["absolute", "relative"])
def test_other_scores_than_0_and_1(test, scale):
    split, scores = several_questions_each()
    claim = Claim(loss=0.1, scale=scale)
    order = certify(ENTRIES[:2], lambda _: scores, split, claim, test)
    assert [tested.certified for tested in order] == [True, True]
    lost = np.mean(split.unpruned - scores)
    share = 1 if scale == "absolute" else split.unpruned.mean()
    assert order[0].loss == pytest.approx(lost / share)
    assert len(order[0].margins) == 150
    assert (order[0].worse is None) == (test == "betting")
    certificate = certificate_of(order, split, test, claim)
    check(certificate)
    check(Certificate.model_validate_json(certificate.model_dump_json()))


def test_scores_are_cut_off_at_the_clip():
    split = one_question_each()
    unpruned = np.full(200, -1.0)
    split = Split(unpruned, split.images, split.order)
    order = certify(ENTRIES[:1], lambda _: np.full(200, -50.0), split, CLAIM, "betting", clip=-6.0)
    assert order[0].loss == pytest.approx(5.0)
    assert not order[0].certified
    check(certificate_of(order, split, "betting", clip=-6.0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"p_value": 1e-9}, "p-value 1e-09, but its numbers give"),
        ({"p_value": None}, "p-value None"),
        ({"worse": 2}, "its numbers give"),
        ({"better": 4}, "its numbers give"),
        ({"certified": False}, "certified is False"),
        ({"loss": 0.01}, "loss 0.01"),
        ({"loss": None}, "loss None"),
        ({"worse": None}, "exact needs both counts"),
        ({"worse": 400}, "400 worse"),
    ],
)
def test_a_changed_number_is_found(change, words):
    split = one_question_each()
    scores = flipped(split.unpruned, 3, 3)
    order = certify(ENTRIES[:1], lambda _: scores, split, CLAIM, "exact")
    check(certificate_of(order, split))
    changed = (order[0].model_copy(update=change),)
    with pytest.raises(StudyError, match=f"budget 98: .*{words}"):
        check(certificate_of(changed, split))


def test_a_changed_margin_is_found():
    split, scores = several_questions_each()
    order = certify(ENTRIES[:1], lambda _: scores, split, CLAIM, "betting")
    margins = order[0].margins
    for changed, words in (
        ((margins[0] - 0.01, *margins[1:]), "p-value"),
        (margins[1:], "149 margins"),
        ((4.0, *margins[1:]), "beyond its bound"),
    ):
        tampered = (order[0].model_copy(update={"margins": changed}),)
        with pytest.raises(StudyError, match=f"budget 98: .*{words}"):
            check(certificate_of(tampered, split, "betting"))


def test_a_claim_made_stronger_is_found():
    split = one_question_each()
    order = certify(ENTRIES[:1], lambda _: flipped(split.unpruned, 3, 3), split, CLAIM, "exact")
    with pytest.raises(StudyError, match="budget 98: p-value"):
        check(certificate_of(order, split, claim=Claim(loss=0.05)))


def test_a_claim_that_the_test_cannot_prove_is_found():
    split = one_question_each()
    order = certify(ENTRIES[:1], lambda _: flipped(split.unpruned, 3, 3), split, CLAIM, "exact")
    with pytest.raises(StudyError, match="absolute"):
        check(certificate_of(order, split, claim=Claim(loss=0.1, scale="relative")))


def test_a_policy_certified_after_a_failure_is_found():
    split = one_question_each()
    flips = {98: (40, 0), 43: (0, 0)}
    order = certify(
        ENTRIES[:2], lambda e: flipped(split.unpruned, *flips[e.tokens]), split, CLAIM, "exact"
    )
    alone = certify(ENTRIES[1:2], lambda _: split.unpruned, split, CLAIM, "exact")
    assert alone[0].certified
    with pytest.raises(StudyError, match="budget 43: was tested"):
        check(certificate_of((order[0], alone[0]), split))


@pytest.mark.parametrize(
    ("scores", "images", "test", "words"),
    [
        ([0.5, 1.0], ["a", "b"], "exact", "scores of 0 or 1"),
        ([1.0, 1.0], ["a", "a"], "exact", "questions_per_image: an image has 2"),
        ([1.0, 7.0], ["a", "b"], "betting", "objective.clip"),
        ([1.0, 0.0], ["a", "b"], "t", "budget 98: .*1 images scored differently"),
    ],
)
def test_scores_that_do_not_fit_the_test(scores, images, test, words):
    split = Split(np.ones(2), images, sorted(set(images)))
    with pytest.raises(StudyError, match=words):
        certify(ENTRIES, lambda _: np.array(scores), split, CLAIM, test)


def promise_by_hand(u, s, images, claim, flip=1.0):
    each = u - s - claim.loss if claim.scale == "absolute" else (1 - claim.loss) * u - s
    names = sorted(set(images))
    squares = 0.0
    for name in names:
        mine = [each[i] - each.mean() for i in range(len(each)) if images[i] == name]
        squares += sum(mine) ** 2
    squares *= len(names) / (len(names) - 1)
    return -each.sum() / np.sqrt(squares + flip**2 + (-flip) ** 2)


@pytest.mark.parametrize("scale", ["absolute", "relative"])
def test_the_most_promising_comes_first(scale):
    rng = np.random.default_rng(5)
    images = [f"image-{i}" for i in rng.integers(0, 20, 90)]
    unpruned = (rng.random(90) < 0.9).astype(float)
    claim = Claim(loss=0.1, scale=scale)
    entries = [Entry(Count(count=k), k) for k in range(1, 13)]
    scores = [np.where(rng.random(90) < 0.02 * k, 1 - unpruned, unpruned) for k in range(1, 13)]
    found = order_by_promise(entries, scores, unpruned, images, claim)
    promise = [promise_by_hand(unpruned, s, images, claim) for s in scores]
    assert len(set(promise)) == 12
    assert list(found) == sorted(range(12), key=lambda i: -promise[i])


def test_promise_of_clipped_scores():
    rng = np.random.default_rng(6)
    images = [f"image-{i}" for i in range(40)]
    unpruned = -rng.random(40)
    scores = [unpruned - scale * rng.random(40) for scale in (0.1, 3.0, 0.5, 90.0)]
    found = order_by_promise(ENTRIES, scores, unpruned, images, CLAIM, clip=-6.0)
    promise = [
        promise_by_hand(unpruned, np.maximum(s, -6), images, CLAIM, flip=6.0) for s in scores
    ]
    assert list(found) == sorted(range(4), key=lambda i: -promise[i])


def test_ties_go_to_the_larger_budget_and_no_flip_is_no_division_by_0():
    images = [f"image-{i}" for i in range(30)]
    entries = [ENTRIES[2], ENTRIES[0], ENTRIES[1]]
    same = order_by_promise(entries, [np.ones(30)] * 3, np.ones(30), images, CLAIM)
    assert same == (1, 2, 0)
    # one wrong of thirty is less promising than none, whatever its budget
    one = np.ones(30)
    one[3] = 0
    found = order_by_promise(entries, [np.ones(30), one, one], np.ones(30), images, CLAIM)
    assert found == (0, 1, 2)


def test_false_certificates_of_a_sequence():
    # four policies just lose what the claim excludes: none is certified in 95 % of studies
    rng = np.random.default_rng(7)
    images = [f"image-{i}" for i in range(60)]
    unpruned, claim, runs = np.ones(60), Claim(loss=0.1), 250
    split = Split(unpruned, images, images)
    false = 0
    for _ in range(runs):
        drawn = (rng.random((4, 60)) >= 0.1).astype(float)
        order = certify(ENTRIES, lambda e, d=drawn: d[ENTRIES.index(e)], split, claim, "exact")
        false += any(tested.certified for tested in order)
    assert false / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)
