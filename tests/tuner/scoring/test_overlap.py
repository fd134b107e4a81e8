"""The same picture in two splits: by name, by pixels, by look."""

import io
import json
import random
import warnings

import numpy as np
import pytest
from PIL import Image, ImageDraw

from resprune.errors import StudyError
from studies.nano.scenes import generate_scene, generate_wide_scene
from tuner import pictures, tasks
from tuner.pictures import LEAST_EDGES, NEAR, near_duplicates, picture_hash
from tuner.scoring import overlap
from tuner.scoring.overlap import PictureHashes, check_names, check_pictures


def sample(name, image, version=""):
    def load():
        return image() if callable(image) else image

    return tasks.Sample(f"s-{name}", name, "q?", "q?", ("a",), "", load, version)


def noise(seed, size=(40, 30)):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file).convert("RGB")


# -- names and pixels ---------------------------------------------------------------------


def test_an_image_id_in_two_splits_is_refused():
    one, two = sample("a", noise(0)), sample("b", noise(1))
    check_names({"tune": [one, one], "report": [two]})
    with pytest.raises(StudyError, match=r"task\.report: image 'a' is in tune too"):
        check_names({"tune": [one], "fit": [two], "report": [one]})


def test_the_hash_is_of_the_decoded_pixels():
    image = noise(0)
    same = encoded(image, "BMP"), encoded(image, "PNG", optimize=True), image.convert("RGBA")
    assert {picture_hash(each) for each in same} == {picture_hash(image)}
    flat = Image.new("RGB", (6, 4)), Image.new("RGB", (4, 6)), Image.new("RGB", (3, 8))
    changed = image.copy()
    changed.putpixel((39, 29), tuple(255 - v for v in image.getpixel((39, 29))))
    hashes = {picture_hash(each).pixels for each in (image, changed, *flat)}
    assert len(hashes) == 5


@pytest.mark.parametrize("parts", [("tune", "report"), ("fit", "certify"), ("certify", "report")])
def test_one_picture_under_two_names_is_refused(parts):
    splits = {
        parts[0]: [sample("a", noise(0)), sample("b", noise(1))],
        parts[1]: [sample("c", noise(2)), sample("d", encoded(noise(1), "PNG"))],
    }
    message = (
        rf"task\.{parts[1]}: sample 's-d' \(image 'd'\) shows the same picture as "
        rf"sample 's-b' \(image 'b'\) of {parts[0]}"
    )
    with pytest.raises(StudyError, match=message):
        check_pictures(splits, PictureHashes())


def test_one_picture_twice_in_one_split_is_no_overlap():
    twice = [sample("a", noise(0)), sample("b", noise(0))]
    check_pictures({"tune": twice, "report": [sample("c", noise(1))]}, PictureHashes())


# -- look ---------------------------------------------------------------------------------


def scenes(draw, start, count=100):
    return [sample(f"{seed}", lambda s=seed: draw(s).image) for seed in range(start, start + count)]


@pytest.mark.parametrize("draw", [generate_scene, generate_wide_scene])
def test_scenes_do_not_look_alike(draw):
    splits = {"tune": scenes(draw, 0), "certify": scenes(draw, 1000), "report": scenes(draw, 2000)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_pictures(splits, PictureHashes())


def plain(seed):
    """One to four shapes on white."""
    rng = random.Random(seed)
    image = Image.new("RGB", (224, 224), "white")
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randint(1, 4)):
        x, y, r = rng.uniform(20, 200), rng.uniform(20, 200), rng.uniform(10, 60)
        shape = rng.choice((pen.ellipse, pen.rectangle))
        shape([x - r, y - r, x + r, y + r], fill=rng.choice(("red", "blue", "green", "orange")))
    return image


def test_plain_pictures_do_not_look_alike():
    splits = {
        "tune": [sample(f"{i}", plain(i)) for i in range(300)],
        "report": [
            sample("white", Image.new("RGB", (90, 90), "white")),
            *(sample(f"{i}", plain(i)) for i in range(300, 600)),
        ],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_pictures(splits, PictureHashes())


CHANGES = {
    "as JPEG": lambda image: encoded(image, "JPEG", quality=40),
    "smaller": lambda image: image.resize((56, 56), Image.Resampling.BICUBIC),
    "larger": lambda image: image.resize((190, 190), Image.Resampling.LANCZOS),
    "brighter": lambda image: image.point(lambda v: min(255, int(1.1 * v))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_picture_changed_a_little_is_found_and_counted(change):
    splits = {
        "tune": [sample(f"t{seed}", generate_scene(seed).image) for seed in range(40)],
        "report": [
            sample(f"r{seed}", CHANGES[change](generate_scene(seed).image))
            for seed in range(35, 55)
        ],
    }
    with pytest.warns(UserWarning, match=r"task\.report: 5 of its 20 images look like") as caught:
        check_pictures(splits, PictureHashes())
    (warning,) = caught
    named = r"sample 's-r35' (image 'r35') like sample 's-t35' (image 't35') of tune"
    assert named in str(warning.message)


def test_certify_is_held_against_every_other_split_and_tune_against_none():
    scene = generate_scene(0).image
    twin = sample("twin", encoded(scene, "JPEG", quality=80))
    other = sample("other", generate_scene(1).image)
    for part in ("tune", "fit", "report"):
        with pytest.warns(UserWarning, match=rf"task\.certify: 1 of its 1 .* of {part};"):
            check_pictures({part: [twin], "certify": [sample("a", scene)]}, PictureHashes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = {"tune": [twin], "fit": [sample("a", scene)], "report": [other]}
        check_pictures(splits, PictureHashes())


def test_near_duplicates_are_those_of_a_loop(monkeypatch):
    monkeypatch.setattr(pictures, "_ROWS", 7)
    rng = np.random.default_rng(0)
    one = rng.random((30, 256)) < rng.uniform(0.02, 0.5, (30, 1))
    other = np.concatenate([one[5:25], rng.random((10, 256)) < 0.3])
    other ^= rng.random(other.shape) < rng.uniform(0, 0.2, (30, 1))
    expected = [
        [i, j]
        for i, a in enumerate(one)
        for j, b in enumerate(other)
        if min(a.sum(), b.sum()) >= LEAST_EDGES and (a != b).sum() <= NEAR * (a.sum() + b.sum())
    ]
    assert 5 < len(expected) < 20
    assert near_duplicates(one, other).tolist() == expected


# -- hashes in the run folder -------------------------------------------------------------


class Counting:
    """Images that say how often they were decoded."""

    def __init__(self):
        self.times = 0

    def sample(self, name, seed, version=""):
        def load():
            self.times += 1
            return noise(seed)

        return sample(name, load, version)


def test_an_image_is_decoded_once_for_all_runs(tmp_path):
    images, steps = Counting(), []
    asked = [images.sample("a", 0), images.sample("a", 0), images.sample("b", 1)]
    first = PictureHashes(tmp_path / "cache").of(asked, lambda *step: steps.append(step))
    assert (images.times, steps) == (2, [(1, 2), (2, 2)])
    again = PictureHashes(tmp_path / "cache")
    assert again.of(asked) == first == {"a@": picture_hash(noise(0)), "b@": picture_hash(noise(1))}
    assert images.times == 2
    # another version of a name is another picture
    found = again.of([images.sample("a", 5, "2")])
    assert found == {"a@2": picture_hash(noise(5))}
    assert images.times == 3


def test_an_interruption_keeps_what_was_hashed(tmp_path):
    images = Counting()
    asked = [images.sample(f"{i}", i) for i in range(6)]

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PictureHashes(tmp_path).of(asked, stop)
    PictureHashes(tmp_path).of(asked)
    assert images.times == 6


@pytest.mark.parametrize("damage", ["truncated", "another digit", "another shape", "a list"])
def test_damaged_hashes_are_made_again(tmp_path, damage):
    images = Counting()
    asked = [images.sample("a", 0), images.sample("b", 1)]
    first = PictureHashes(tmp_path).of(asked)
    path = tmp_path / overlap.HASHES_FILE
    text, data = path.read_text(), json.loads(path.read_text())
    digit = first["a@"].edges
    path.write_text(
        {
            "truncated": text[: len(text) // 2],
            "another digit": text.replace(digit, ("0" if digit[0] != "0" else "1") + digit[1:]),
            "another shape": json.dumps({**data, "hashes": {"a@": ["0"]}}),
            "a list": "[]",
        }[damage]
    )
    with pytest.warns(UserWarning, match=r"pictures\.json: damaged hashes of images"):
        again = PictureHashes(tmp_path)
    assert again.of(asked) == first
    assert images.times == 4
    PictureHashes(tmp_path).of(asked)
    assert images.times == 4


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"file/cache/pictures\.json: cannot be written"):
        PictureHashes(tmp_path / "file" / "cache").of([sample("a", noise(0))])
