"""The task ``table``: one file or one a split, in every format, good rows and bad ones."""

import csv
import io
import json
from collections import defaultdict

import pytest
from PIL import Image

from resprune.errors import StudyError
from studies.nano.scenes import generate_scene
from tuner import tasks
from tuner.tasks.divide import connected, divided


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("hf")))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(8):
        generate_scene(700_000 + i).image.save(tmp_path / "photos" / f"{i}.png")
    return tmp_path


ROWS = [
    {"image": f"{i % 8}.png", "question": f"What is {i}?", "answers": ["a", "b"],
     "group": f"g{i % 2}"}
    for i in range(12)
]  # fmt: skip


def write(path, rows):
    """Write rows in the format of the file's ending."""
    kind = path.suffix
    if kind == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif kind in (".csv", ".tsv"):
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="," if kind == ".csv" else "\t")
            writer.writerow(columns)
            for row in rows:
                cells = [row.get(key, "") for key in columns]
                writer.writerow([json.dumps(c) if isinstance(c, list) else c for c in cells])
    else:
        import datasets

        datasets.Dataset.from_list(rows).to_parquet(path)
    return path


def own(path, images=None, **options):
    given = {} if images is None else {"images": str(images)}
    return tasks.get("table", data=str(path), **given, **options)


def whole(task):
    return [s for part in ("tune", "certify", "report") for s in task.samples(part, None)]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_samples(folder, kind):
    path = write(folder / f"q.{kind}", ROWS)
    found = whole(own(path, folder / "photos", divide={"seed": 3}))
    told = {s.question: (s.image_id, s.answers, s.group, s.image_version) for s in found}
    reference = whole(own(write(folder / "r.jsonl", ROWS), folder / "photos", divide={"seed": 3}))
    assert told == {
        s.question: (s.image_id, s.answers, s.group, s.image_version) for s in reference
    }
    assert len(found) == 12
    assert [s.question for s in found] == [s.question for s in reference]


def test_images_within_parquet(folder):
    rows = [
        {"image": {"bytes": (folder / "photos" / f"{i}.png").read_bytes(), "path": None},
         "question": "q?"}
        for i in range(4)
    ]  # fmt: skip
    path = write(folder / "q.parquet", rows)
    found = whole(own(path, metric="fidelity"))
    assert len({s.image_id for s in found}) == 4
    assert {s.load_image().size for s in found} == {(112, 112)}


def test_one_file_is_divided_by_image(folder):
    task = own(write(folder / "q.jsonl", ROWS), folder / "photos")
    parts = {part: task.samples(part, None) for part in ("tune", "certify", "report")}
    owner = defaultdict(set)
    for part, samples in parts.items():
        for sample in samples:
            owner[sample.image_id].add(part)
    assert all(len(own_parts) == 1 for own_parts in owner.values())
    assert [len({s.image_id for s in samples}) for samples in parts.values()] == [2, 4, 2]
    again = own(write(folder / "q.jsonl", ROWS[::-1]), folder / "photos")
    for part, samples in parts.items():  # whatever the order of the rows
        assert {s.question for s in again.samples(part, None)} == {s.question for s in samples}
    other = own(folder / "q.jsonl", folder / "photos", divide={"seed": 1})
    assert {s.question for s in other.samples("tune", None)} != {s.question for s in parts["tune"]}
    assert "divided by image with seed 0" in task.notes[0]
    assert "tune 2, certify 4, report 2 images" in task.notes[0]


def test_pictures_that_look_alike_go_together_and_count_as_one(folder):
    photos = folder / "photos"
    scene = Image.open(photos / "0.png")
    scene.save(photos / "copy.bmp")  # the same pixels in another file
    scene.resize((56, 56)).resize((112, 112)).save(photos / "small.jpg", quality=60)
    rows = [{"image": n, "question": "q?"} for n in ("0.png", "copy.bmp", "small.jpg")]
    rows += [{"image": f"{i}.png", "question": "q?"} for i in range(1, 8)]
    for seed in range(6):
        found = whole(own(write(folder / "q.jsonl", rows), photos, metric="fidelity",
                          divide={"seed": seed}))  # fmt: skip
        assert len({s.image_id for s in found}) == 8
        alike = [i for i, s in enumerate(found) if s.image_id == "0.png"]
        assert len(alike) == 3


def test_named_splits_are_used(folder):
    rows = [{**row, "split": "tune" if i < 7 else "report"} for i, row in enumerate(ROWS)]
    for kind in ("jsonl", "csv", "parquet"):
        task = own(write(folder / f"q.{kind}", rows), folder / "photos")
        assert len(task.samples("tune", None)) == 7
        assert len(task.samples("report", None)) == 5
        assert task.notes == ()
        with pytest.raises(StudyError, match=r"no split 'certify' .*value of the column 'split'"):
            task.samples("certify", None)


def test_a_txt_is_asked_of_every_image(folder):
    (folder / "q.txt").write_text("\ufeffWhat color?\n\n  How many?  \n", encoding="utf-8")
    (folder / "photos" / "notes.md").write_text("no image")
    (folder / "photos" / "deep").mkdir()
    Image.new("RGB", (9, 9), "red").save(folder / "photos" / "deep" / "x.JPG")
    found = whole(own(folder / "q.txt", folder / "photos", metric="fidelity"))
    assert len(found) == 18
    assert {s.question for s in found} == {"What color?", "How many?"}
    assert "deep/x.JPG" in {s.image_id for s in found}
    assert len({s.id for s in found}) == 18
    (folder / "empty").mkdir()
    with pytest.raises(StudyError, match=r"empty: no images \(\.png, .*--images"):
        own(folder / "q.txt", folder / "empty", metric="fidelity").samples("tune", None)


def test_several_images_a_question(folder):
    rows = [
        {"images": ["0.png", "1.png"], "question": "a?"},
        {"images": ["1.png"], "question": "b?"},
        {"images": ["2.png", "3.png", "4.png"], "question": "c?"},
        {"images": ["5.png"], "question": "d?"},
    ]
    for kind in ("jsonl", "csv", "parquet"):
        task = own(write(folder / f"q.{kind}", rows), folder / "photos", metric="fidelity",
                   divide={"shares": {"tune": 0.5, "report": 0.5}})  # fmt: skip
        found = [s for part in ("tune", "report") for s in task.samples(part, None)]
        by = {s.question: s for s in found}
        assert [len(by[q].pictures) for q in ("a?", "b?", "c?", "d?")] == [2, 1, 3, 1]
        assert by["a?"].image_id == by["b?"].image_id  # they share an image
        assert len({s.image_id for s in found}) == 3
        assert by["c?"].pictures[2].load().size == (112, 112)


def test_choices_formats_and_scorers(folder):
    rows = [
        {"image": "0.png", "question": "Which?", "choices": ["cat", "a dog"], "answer": gold}
        for gold in ("B", "b", "a dog")
    ]
    rows[0]["answer_format"] = "Say the letter."
    path = write(folder / "tune.jsonl", [*rows, {**rows[1], "answer": 1}])
    task = own(folder, folder / "photos", scorer="choice")
    found = task.samples("tune", None)
    assert {s.answers for s in found} == {("B",)}
    assert found[0].prompt == "Which?\nA. cat\nB. a dog\nSay the letter."
    assert found[1].prompt == (
        "Which?\nA. cat\nB. a dog\nAnswer with the option's letter from the given choices directly."
    )
    assert found[0].question == "Which?"  # nouns come from the question alone
    for text, score in {
        "B": 1, "b.": 1, "(B)": 1, "B. a dog": 1, "a dog": 1, "A dog.": 1, "The answer is B": 1,
        "Answer: (b) because": 1, "A": 0, "cat": 0, "": 0, "dog": 0, "bold": 0, "Both": 0,
    }.items():  # fmt: skip
        assert task.score(text, found[0]) == score, text
    path.write_text(json.dumps({"image": "0.png", "question": "q", "answer": "A"}))
    with pytest.raises(StudyError, match=r"line 1: no 'choices', which the scorer 'choice' needs"):
        own(folder, folder / "photos", scorer="choice").samples("tune", None)


@pytest.mark.parametrize(
    ("scorer", "answers", "given", "score"),
    [
        ("anls", ["STOP sign"], "stop  sign", 1.0),
        ("anls", ["abcd"], "abcx", 0.75),
        ("anls", ["abcd"], "abxx", 0.0),  # not above one half
        ("anls", ["zzzz", "kitten"], "sitting", 1 - 3 / 7),
        ("anls", ["a"], "", 0.0),
        ("contains", ["red"], "It is a red, round one", 1.0),
        ("contains", ["red"], "a reddish one", 0.0),
        ("contains", ["stop sign"], "The STOP sign.", 1.0),
        ("regex", [r"^\d{2,}$"], "42", 1.0),
        ("regex", [r"^\d{2,}$"], "4", 0.0),
        ("yes-no", ["yes"], "Yes, there is.", 1.0),
        ("yes-no", ["No"], "yes", 0.0),
        ("exact", ["Two"], " two. ", 1.0),
        ("vqa", ["red"] * 10, "the red", 1.0),
    ],
)  # fmt: skip
def test_scorers(folder, scorer, answers, given, score):
    write(folder / "tune.jsonl", [{"image": "0.png", "question": "q?", "answers": answers}])
    task = own(folder, folder / "photos", scorer=scorer)
    (sample,) = task.samples("tune", None)
    assert task.score(given, sample) == pytest.approx(score)
    assert task.binary == (scorer not in ("anls", "vqa"))


def test_f1_of_yes_and_no(folder):
    golds = ["yes", "yes", "no", "no", "yes"]
    write(folder / "tune.jsonl", [{"image": f"{i}.png", "question": "q?", "answer": g}
                                  for i, g in enumerate(golds)])  # fmt: skip
    task = own(folder, folder / "photos", scorer="yes-no")
    said = ["yes", "no", "yes", "no", "Yes."]
    measures = task.measures(said, task.samples("tune", None))
    assert measures == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 3, "F1": 2 / 3, "yes ratio": 3 / 5}
    )


def test_a_pattern_that_never_ends_is_an_error(folder):
    rows = [{"image": "0.png", "question": "q?", "answer": "(a|aa)+$"}]
    write(folder / "tune.jsonl", rows)
    task = own(folder, folder / "photos", scorer="regex")
    (sample,) = task.samples("tune", None)
    with pytest.raises(StudyError, match="sample 'tune-1': its pattern was searched for 1 s"):
        task.score("a" * 60 + "b", sample)
    write(folder / "tune.jsonl", [{**rows[0], "answer": "("}, {**rows[0], "answer": "a("}])
    with pytest.raises(StudyError, match=r"2 rows .*\n.*line 1: '\(' is no regular.*\n.*line 2"):
        own(folder, folder / "photos", scorer="regex").samples("tune", None)


# -- bad input ----------------------------------------------------------------------------


def test_everything_that_is_wrong_is_named_at_once(folder):
    good = {"image": "0.png", "question": "q?", "answer": "a"}
    bad = [
        {**good, "image": "../q.txt"},
        {**good, "image": "/etc/passwd"},
        {**good, "image": "a\0b.png"},
        {**good, "image": "x" * 5000},
        {**good, "image": 3},
        {**good, "question": ""},
        {**good, "question": "a\0b"},
        {**good, "question": "q" * 20_001},
        {**good, "answer": {"no": 1}},
        {**good, "answer": "  "},
        {**good, "choices": ["one"]},
        {**good, "image": None, "images": []},
        {"question": "q?"},
    ]
    (folder / "photos" / "tune.jsonl").write_text(
        "\n".join(json.dumps(row) for row in [good, *bad, good])
        + '\n{"image": "0.png", "question": "\\ud800", "answer": "a"}'
    )
    with pytest.raises(StudyError) as caught:
        own(folder / "photos").samples("tune", None)
    text = str(caught.value)
    assert text.startswith(f"{len(bad) + 1} rows cannot be used:")
    assert [f"line {n}:" in text for n in range(2, len(bad) + 2)] == [True] * len(bad)
    assert "half a character" in text
    assert "line 1:" not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]\n{", r"2 lines .*\n.*line 1: expected an object, found list\n.*line 2: not valid"),
        ('{"a": ' + "1" * 5000 + "}", r"line 1: not valid JSON \(Exceeds the limit"),
        ("[" * 100_000, r"line 1: not valid JSON"),
        ("", "no rows"),
        ("\n \n", "no rows"),
        (b"\xff\xfe{", "cannot be read as UTF-8 text"),
    ],
)
def test_lines_that_are_no_rows(folder, text, message):
    path = folder / "tune.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StudyError, match=message):
        own(folder).samples("tune", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,image,question\n", "column 'image' is named twice"),
        ("image,question\n0.png,a,b\n", r"line 2: 3 cells for 2 columns; put quotes"),
        ('image,question\n0.png,"a\n', r"not valid CSV \(unexpected end of data\)"),
        ("img,question\n0.png,a\n", r"no column 'image' or 'images'\. Did you mean 'img'"),
        ("image,qestion\n0.png,a\n", r"no column 'question'\. Did you mean 'qestion'"),
        ("image,question,anwser\n0.png,a,b\n", r"unknown column 'anwser'\. Did you mean 'answer'"),
        (f"image,question\n0.png,{'a' * 2**22}b\n", "not valid CSV .field larger than"),
    ],
)
def test_csv_that_is_none(folder, text, message):
    (folder / "photos" / "q.csv").write_text(text)
    with pytest.raises(StudyError, match=message):
        own(folder / "photos" / "q.csv").samples("tune", None)


def test_other_columns_are_not_read(folder):
    path = write(folder / "q.jsonl", [{**row, "user": {"id": 1}, "ts": 1.5} for row in ROWS])
    assert len(whole(own(path, folder / "photos"))) == 12


def test_parquet_that_is_none_and_files_of_other_kinds(folder):
    (folder / "q.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(StudyError, match=r"q\.parquet: cannot be read as parquet"):
        own(folder / "q.parquet").samples("tune", None)
    (folder / "q.pkl").write_bytes(b"")
    with pytest.raises(StudyError, match=r"not a table; give a file that ends in one of \.jsonl"):
        own(folder / "q.pkl")
    (folder / "tune.csv").write_text("image,question\n")
    (folder / "tune.jsonl").write_text("{}")
    with pytest.raises(StudyError, match=r"split 'tune' is tune\.csv and tune\.jsonl; remove one"):
        own(folder).samples("tune", None)


def test_images_that_cannot_be_opened_are_named_together(folder):
    photos = folder / "photos"
    (photos / "0.png").write_bytes(b"no image")
    (photos / "1.png").write_bytes((photos / "2.png").read_bytes()[:200])
    bad = [*ROWS, {**ROWS[0], "question": ""}, {**ROWS[0], "image": "9.png"}]
    with pytest.raises(StudyError) as caught:
        own(write(folder / "q.jsonl", bad), photos).samples("tune", None)
    text = str(caught.value)
    assert "4 rows and images cannot be used" in text
    assert "line 13: 'question' is missing" in text
    assert "line 14: image '9.png': no such file" in text
    assert "0.png: not an image" in text
    assert "1.png: cannot be read as an image" in text


def picture(kind):
    image = generate_scene(1).image
    file = io.BytesIO()
    if kind == "cmyk":
        image.convert("CMYK").save(file, "JPEG")
    elif kind == "16-bit":
        Image.new("I;16", (20, 10), 40_000).save(file, "PNG")
    elif kind == "animated":
        image.save(file, "GIF", save_all=True, append_images=[image.rotate(90)])
    elif kind == "palette":
        image.convert("P").save(file, "PNG", transparency=0)
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.resize((40, 20)).save(file, "JPEG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["cmyk", "16-bit", "animated", "palette", "turned"])
def test_images_of_other_kinds_are_converted(folder, kind):
    (folder / "photos" / "x.png").write_bytes(picture(kind))
    write(folder / "tune.jsonl", [{"image": "x.png", "question": "q?", "answer": "a"}])
    (sample,) = own(folder, folder / "photos").samples("tune", None)
    image = sample.load_image()
    assert image.mode == "RGB"
    if kind == "turned":
        assert image.size == (20, 40)
    if kind == "16-bit":
        assert image.getpixel((0, 0)) == (155, 155, 155)  # 40,000 // 257: scaled, not cut off


# -- dividing -------------------------------------------------------------------------------


def test_parts_follow_the_shares_and_none_is_empty():
    groups = [f"{i // 2}" for i in range(2000)]
    parts = divided(groups, {"tune": 0.2, "certify": 0.5, "report": 0.3}, 0)
    assert [parts.count(p) / 2000 for p in ("tune", "certify", "report")] == [0.2, 0.5, 0.3]
    for count in range(3, 12):
        few = divided([str(i) for i in range(count)], {"a": 0.01, "b": 0.98, "c": 0.01}, 0)
        assert set(few) == {"a", "b", "c"}
    assert sorted(divided(["x", "y"], {"a": 0.5, "b": 0.25, "c": 0.25}, 0)) != []


def test_connected_rows():
    found = connected([["a", "b"], ["c"], ["b", "d"], ["e"], ["f"]], [("e", "c")])
    assert found == ["a", "c", "a", "c", "f"]
