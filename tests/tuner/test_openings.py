"""What a study has looked at, and what it may look at next."""

import json
import re
from datetime import UTC, datetime

import pytest

from resprune.errors import StudyError
from tuner.openings import OPENINGS_FILE, Openings
from tuner.study import study_from_dict
from tuner.study.schema import SplitSpec

A, B = "a" * 32, "b" * 32


def spec(offset=0, samples=600, few=1, split="certify"):
    return SplitSpec(split=split, samples=samples, offset=offset, questions_per_image=few)


def test_an_opening_is_counted_once(tmp_path):
    openings = Openings(tmp_path)
    assert openings.open("certify", spec(), A) == 1
    assert openings.open("report", spec(split="report"), A) == 1
    assert openings.open("certify", spec(600), B) == 2
    before = (tmp_path / OPENINGS_FILE).read_bytes()
    resumed = Openings(tmp_path)
    assert [resumed.open("certify", spec(at), c) for at, c in ((0, A), (600, B), (0, A))] == [
        1,
        2,
        1,
    ]
    assert resumed.open("report", spec(split="report"), A) == 1
    assert (tmp_path / OPENINGS_FILE).read_bytes() == before
    assert resumed.open("certify", spec(1200), B) == 3


def test_it_is_written_before_anything_is_scored(tmp_path):
    days = {f"{datetime.now(UTC):%Y-%m-%d}"}
    Openings(tmp_path).open("certify", spec(30), A)
    days.add(f"{datetime.now(UTC):%Y-%m-%d}")
    (opening,) = json.loads((tmp_path / OPENINGS_FILE).read_text())["openings"]
    assert opening.pop("date") in days
    assert opening == {
        "part": "certify",
        "range": {"split": "certify", "samples": 600, "offset": 30, "questions_per_image": 1},
        "choices": A,
    }
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("part", "now", "choices", "why"),
    [
        ("certify", spec(), B, "with other choices; give --certify-offset 700 "),
        ("certify", spec(699, 1), B, "with other choices"),
        ("certify", spec(0, 101), B, "with other choices"),
        ("certify", spec(100, 900), A, "as another range, and more images after a look"),
        ("certify", spec(100, 300), A, "as another range"),
        ("report", spec(100), A, "as the certify split; give --report-offset 700 "),
        (
            "certify",
            spec(5000, few=None),
            A,
            r".*; set task\.certify\.questions_per_image = 1 again, .*give --certify-offset 700",
        ),
    ],
)
def test_what_was_seen_may_not_be_seen_again(tmp_path, part, now, choices, why):
    openings = Openings(tmp_path)
    openings.open("certify", spec(100), A)
    before = (tmp_path / OPENINGS_FILE).read_bytes()
    opened = (
        rf"^task\.{part}: 600 samples of split 'certify' from 100 on were opened on [\d-]+ {why}"
    )
    with pytest.raises(StudyError, match=opened) as caught:
        openings.open(part, now, choices)
    assert (tmp_path / OPENINGS_FILE).read_bytes() == before
    # what the message asks for is free
    offset = int(re.search(r"-offset (\d+)", str(caught.value))[1])
    assert openings.open(part, spec(offset), choices) == (2 if part == "certify" else 1)


@pytest.mark.parametrize("now", [spec(0, 100), spec(700), spec(split="other"), spec(0, 1)])
def test_what_was_not_seen_may_be(tmp_path, now):
    openings = Openings(tmp_path)
    openings.open("certify", spec(100), A)
    assert openings.open("certify", now, B) == 2


def test_the_free_offset_lies_past_every_opening(tmp_path):
    openings = Openings(tmp_path)
    openings.open("certify", spec(), A)
    openings.open("certify", spec(600, 50), B)
    with pytest.raises(StudyError, match="--certify-offset 650 "):
        openings.open("certify", spec(), B)


def test_a_report_of_the_same_choices_may_grow_and_is_counted(tmp_path):
    openings = Openings(tmp_path)
    assert openings.open("report", spec(split="report", few=None), A) == 1
    assert openings.open("report", spec(split="report", few=None, samples=4000), A) == 2
    with pytest.raises(StudyError, match=r"task\.report: .*other choices; give --report-offset 40"):
        openings.open("report", spec(split="report", few=None), B)
    assert openings.open("report", spec(4000, split="report", few=None), B) == 3


def damaged(text, kind):
    data = json.loads(text)
    (opening,) = data["openings"]
    if kind == "torn":
        return text[: len(text) // 2]
    if kind == "empty":
        return ""
    if kind == "newer":
        return json.dumps({**data, "schema_version": 2})
    wrong = {"choices": "xyz", "date": "today", "part": "tune", "range": {"samples": 3}}
    return json.dumps({"openings": [{**opening, kind: wrong[kind]}]})


@pytest.mark.parametrize("kind", ["torn", "empty", "newer", "choices", "date", "part", "range"])
def test_a_damaged_record_is_not_passed_over(tmp_path, kind):
    Openings(tmp_path).open("certify", spec(), A)
    path = tmp_path / OPENINGS_FILE
    path.write_text(damaged(path.read_text(), kind))
    with pytest.raises(StudyError, match=r"openings\.json.*restore it from a copy"):
        Openings(tmp_path)


def test_an_unwritable_folder_is_named_and_nothing_is_opened(tmp_path):
    openings = Openings(tmp_path / "nowhere")
    for _ in range(2):
        with pytest.raises(StudyError, match=r"nowhere/openings\.json: cannot be written"):
            openings.open("certify", spec(), A)


def test_ranges_of_another_number_of_questions_are_not_compared(tmp_path):
    """They count other samples of the split; ``load_samples`` compares the images themselves."""
    one, all_of_them = spec(), spec(few=None)
    assert one.overlaps(spec(599))
    assert not one.overlaps(spec(600))
    assert not one.overlaps(all_of_them)
    assert not one.overlaps(spec(few=2))
    assert not one.overlaps(spec(split="report"))


def study(**task):
    return study_from_dict(
        {
            "study": {"name": "s"},
            "backbone": {"model": "nano-llava"},
            "task": {
                "name": "nano-scenes",
                "tune": {"split": "tune", "samples": 8},
                "report": {"split": "report", "samples": 8},
                **task,
            },
            "search": {"budget": [6]},
        }
    )


def test_what_openings_guard_may_change_while_a_study_is_resumed():
    certify = {"split": "certify", "samples": 8, "questions_per_image": 1}
    first = study(certify=certify)
    others = [
        study(certify={**certify, "offset": 8}),
        study(certify={**certify, "samples": 9}),
        study(),
        study(certify=certify, report={"split": "report", "samples": 8, "offset": 8}),
    ]
    assert [other.changed_since(first) for other in others] == [[], [], [], []]
    fewer = {"split": "tune", "samples": 8, "questions_per_image": 1}
    assert study(tune=fewer).changed_since(first) == ["task.tune"]
