"""``data check``: counts against what was written, everything wrong at once, exit codes."""

import json

import pytest
from PIL import Image

from studies.nano.scenes import generate_scene, generate_wide_scene
from tests.tuner.test_cli import STUDY, call
from tuner import certificate


@pytest.fixture
def folder(tmp_path):
    for i in range(12):
        generate_scene(720_000 + i).image.save(tmp_path / f"{i}.png")
    return tmp_path


def write(folder, rows, name="asked.jsonl"):
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def row(i, **more):
    return {"image": f"{i}.png", "question": "What color?", "answer": "red", **more}


def check(capsys, *arguments):
    code, out, err = call(capsys, "data", "check", *arguments, "--json")
    assert code in (0, 1), err
    return code, json.loads(out)


def test_counts_are_those_of_the_file(folder, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "0.png").convert("L").resize((40, 20)).save(folder / "0.jpg", exif=exif)
    rows = [row(i % 12, group=f"g{i % 3}") for i in range(18)]
    rows[1] |= {"image": "0.jpg", "answer": ""}
    code, found = check(capsys, write(folder, rows))
    assert code == 0
    assert found["rows"] == {"all": 18}
    assert found["groups"] == {"g0": 6, "g1": 6, "g2": 6}
    images = found["images"]
    assert images["count"] == 13
    assert images["modes"] == {"RGB": 12, "L": 1}
    assert images["formats"] == {"PNG": 12, "JPEG": 1}
    assert images["turned"] == 1
    assert images["width"] == {"least": 20, "median": 112, "greatest": 112}
    assert images["tokens"] is None
    assert found["problems"] == []
    assert [part["name"] for part in found["parts"]] == ["tune", "certify", "report"]
    assert sum(part["questions"] for part in found["parts"]) == 18
    assert sum(part["images"] for part in found["parts"]) == 13
    certify = found["parts"][1]
    assert certify["smallest_loss"] == certificate.smallest_loss(
        certify["images"], 0.95, "betting", False, certify["questions_per_image"]
    )


def test_everything_wrong_is_named_at_once(folder, capsys):
    (folder / "2.png").write_text("no image")
    (folder / "3.png").write_bytes((folder / "4.png").read_bytes()[:300])
    (folder / "5.png").write_bytes((folder / "6.png").read_bytes())
    rows = [*map(row, range(12)), row(99), row(0, question=" "), row(1, image="../x.png")]
    path = write(folder, rows)
    code, found = check(capsys, path)
    assert code == 1
    for place, what in (
        ("line 13", "no such file"), ("line 14", "'question' is missing"),
        ("line 15", "is outside"), ("line 3", "not an image"), ("line 4", "cannot be read"),
    ):  # fmt: skip
        assert any(f"{place}:" in p and what in p for p in found["problems"]), (place, what)
    assert len(found["problems"]) == 5
    assert found["duplicates"] == []  # the same bytes are one image
    assert found["images"]["count"] == 9
    code, out, _ = call(capsys, "data", "check", path)
    assert code == 1
    assert "problems: 5" in out


def test_the_same_picture_under_two_names(folder, capsys):
    Image.open(folder / "0.png").save(folder / "0.bmp")
    _, found = check(capsys, write(folder, [*map(row, range(12)), row(0, image="0.bmp")]))
    assert found["duplicates"] == [["0.png", "0.bmp"]]
    assert sum(part["images"] for part in found["parts"]) == 12


def test_splits_that_share_a_picture(folder, capsys):
    Image.open(folder / "0.png").save(folder / "0.bmp")
    generate_scene(720_001).image.resize((90, 90)).save(folder / "1.jpg", quality=70)
    rows = [row(i, split="tune" if i < 6 else "report") for i in range(12)]
    near = [*rows, row(1, image="1.jpg", split="report")]
    code, found = check(capsys, write(folder, near))
    assert code == 0
    assert "look like one of another split" in found["warnings"][0]
    code, found = check(capsys, write(folder, [*near, row(0, image="0.bmp", split="report")]))
    assert code == 1
    assert "shows the same picture as" in found["problems"][0]


def test_a_model_says_tokens_and_cost(folder, capsys):
    path = write(folder, [row(i) for i in range(12)])
    _, found = check(capsys, path, "--model", "nano-llava")
    assert found["images"]["tokens"] == {"least": 196, "median": 196, "greatest": 196}
    tune = found["parts"][0]
    assert tune["passes"] == tune["questions"] * (2 * 40 + 18 * 5)
    assert tune["seconds"] > 0
    generate_wide_scene(1).image.save(folder / "0.png")
    _, found = check(capsys, path, "--model", "nano-llava-next")
    tokens = found["images"]["tokens"]
    assert 0 < tokens["least"] < tokens["greatest"]


def test_a_study_is_checked_with_its_own_splits(folder, capsys, tmp_path):
    rows = [row(i, split="a" if i < 8 else "b") for i in range(12)]
    write(folder, rows)
    text = STUDY.replace("samples = 8", "samples = 4").replace(
        'name = "nano-scenes"', 'name = "table"\ndata = "asked.jsonl"'
    )
    text = text.replace('split = "tune"', 'split = "a"').replace('split = "report"', 'split = "b"')
    path = folder / "s.toml"
    path.write_text(text)
    code, found = check(capsys, path)
    assert code == 0
    assert found["rows"] == {"a": 8, "b": 4}
    assert [(part["name"], part["questions"]) for part in found["parts"]] == [
        ("tune", 4),
        ("report", 4),
    ]
    write(folder, list(map(row, range(12))))  # one file without splits, and no word of dividing
    path.write_text(text.replace('split = "a"', 'split = "tune"').replace('"b"', '"report"'))
    code, found = check(capsys, path)
    assert (code, found["rows"]) == (1, {"all": 12})
    assert "4 samples from 0 on were asked for and the split has 3" in found["problems"][0]
    path.write_text(path.read_text().replace("samples = 4", "samples = 3"))
    code, found = check(capsys, path)
    assert (code, [part["questions"] for part in found["parts"]]) == (0, [3, 3])
    code, _, err = call(capsys, "data", "check", "nano-llava")
    assert code == 2
    assert "reads no table" in err


def test_scorers_of_a_file(folder, capsys):
    path = write(folder, [row(i, choices=["red", "blue"]) for i in range(3)] + [row(4)])
    code, found = check(capsys, path, "--scorer", "choice")
    assert code == 1
    assert "no 'choices'" in found["problems"][0]
    assert found["samples"][0]["answers"] == ["A"]
