import numpy as np
import pytest

from resprune.certificate import Claim
from resprune.errors import StudyError
from tuner.certificate import Bounds, drawn_order, margins, resolve_test, t_p_value
from tuner.certificate.margins import bounded, mean_loss

ABSOLUTE = Claim(loss=0.1)
RELATIVE = Claim(loss=0.1, scale="relative")


@pytest.mark.parametrize("claim", [ABSOLUTE, RELATIVE])
def test_margins_image_by_image(claim):
    rng = np.random.default_rng(0)
    images = [f"image-{i}" for i in rng.integers(0, 7, 40)]
    u, s = rng.random(40), rng.random(40)
    order = drawn_order(images, 3)
    found = margins(u, s, images, claim, order)
    for image, margin in zip(order, found, strict=True):
        mine = [i for i, name in enumerate(images) if name == image]
        expected = (
            sum(u[i] - s[i] for i in mine) - 0.1 * len(mine)
            if claim is ABSOLUTE
            else sum(0.9 * u[i] - s[i] for i in mine)
        )
        assert margin == pytest.approx(expected)
    # the claim holds where, and only where, their sum is below 0
    assert (found.sum() < 0) == (mean_loss(u, s, claim) < 0.1)


@pytest.mark.parametrize("claim", [ABSOLUTE, RELATIVE])
def test_the_bounds_are_reached_and_not_passed(claim):
    images, bounds = ["a", "a", "a"], Bounds.of(claim, 3)
    worst = margins(np.ones(3), np.zeros(3), images, claim, ["a"])
    best = margins(np.zeros(3), np.ones(3), images, claim, ["a"])
    assert worst[0] == pytest.approx(bounds.above)
    assert -best[0] == pytest.approx(bounds.below)


def test_the_order_is_drawn_by_the_seed_alone():
    images = [f"image-{i}" for i in range(50)] * 2
    order = drawn_order(images, 1)
    assert sorted(order) == sorted(set(images))
    assert drawn_order(images[::-1], 1) == order
    assert drawn_order(images, 2) != order


@pytest.mark.parametrize(
    ("images", "order"),
    [(["a", "b"], ["a"]), (["a", "b"], ["a", "b", "b"]), (["a"], ["a"]), (["a", "b"], ["b", "c"])],
)
def test_an_order_of_other_images(images, order):
    with pytest.raises(StudyError, match="one place in the order"):
        margins([1.0, 1.0], [1.0, 0.0], images, ABSOLUTE, order)


def test_scores_of_two_lengths():
    with pytest.raises(StudyError, match="two lists of one length"):
        margins([1.0], [1.0, 0.0], ["a"], ABSOLUTE, ["a"])


def test_scores_out_of_range():
    assert bounded(np.array([-9.0, -1.0, 0.0]), -6.0).tolist() == [-6.0, -1.0, 0.0]
    with pytest.raises(StudyError, match=r"-0.5 is outside \[0, 1\].*objective.clip"):
        bounded(np.array([1.0, -0.5]), None)
    with pytest.raises(StudyError, match=r"0.5 is outside \[-6, 0\]"):
        bounded(np.array([0.5, -0.5]), -6.0)
    with pytest.raises(StudyError, match="nan"):
        bounded(np.array([np.nan]), None)


def test_a_share_of_nothing():
    assert mean_loss(np.array([1.0, 0.5]), np.array([0.0, 0.75]), RELATIVE) == pytest.approx(0.5)
    with pytest.raises(StudyError, match="no share"):
        mean_loss(np.zeros(3), np.zeros(3), RELATIVE)


def test_t_equals_scipy():
    from scipy import stats

    rng = np.random.default_rng(0)
    values = rng.normal(-0.1, 1, 80)
    expected = stats.ttest_1samp(values, 0, alternative="less").pvalue
    assert t_p_value(values, 20) == pytest.approx(expected)
    assert t_p_value(np.full(30, -0.5), 30) == 0.0
    assert t_p_value(np.zeros(30), 30) == 1.0
    with pytest.raises(StudyError, match="19 images scored differently"):
        t_p_value(values, 19)


@pytest.mark.parametrize(
    ("asked", "claim", "binary", "questions", "expected"),
    [
        ("auto", ABSOLUTE, True, 1, "exact"),
        ("auto", RELATIVE, True, 1, "betting"),
        ("auto", ABSOLUTE, False, 1, "betting"),
        ("auto", ABSOLUTE, True, 2, "betting"),
        ("exact", ABSOLUTE, True, 1, "exact"),
        ("betting", ABSOLUTE, True, 1, "betting"),
        ("t", RELATIVE, False, 4, "t"),
    ],
)
def test_which_test_fits(asked, claim, binary, questions, expected):
    assert resolve_test(asked, claim, binary, questions) == expected


@pytest.mark.parametrize(
    ("claim", "binary", "questions", "words"),
    [
        (ABSOLUTE, False, 1, "scores of 0 or 1"),
        (ABSOLUTE, True, 3, "one question an image, not 3"),
        (RELATIVE, True, 1, "absolute"),
    ],
)
def test_exact_where_it_does_not_fit(claim, binary, questions, words):
    with pytest.raises(StudyError, match=rf'objective.test: "exact" .*{words}.*"betting" fits'):
        resolve_test("exact", claim, binary, questions)
