"""TOML that may come from anyone: refused by name, in a second and little memory."""

from __future__ import annotations

import resource
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from resprune.errors import StudyError
from studies.nano import scenes  # noqa: F401  (what a study loads once is not measured)
from tuner.study import find_study, load_study, study_from_dict
from tuner.study.file import read_toml
from tuner.study.limits import MAX_BYTES, MAX_DEPTH, MAX_LINE
from tuner.study.task_file import load_task

MEGABYTES = 200
SECONDS = 3.0  # one is the promise; other work may share the machine


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "s.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


REFUSED = {
    "400 kB of dotted keys": ("a." * 200_000 + "a = 1", "larger than 131,072 bytes"),
    "100 kB of dotted keys": ("a." * 50_000 + "a = 1", r"line 1: 100,005 characters"),
    "a line of dotted keys": (
        "\nx = 1\n" + "a." * 5000 + "a = 1",
        r"line 3: a dotted key of 5,001",
    ),
    "dots with spaces": ("a . " * 3000 + "a = 1", "a dotted key of 3,001 parts"),
    "quoted parts": ("\"a\".'b'." * 1000 + "a = 1", "a dotted key of 2,001 parts"),
    "a long header": (f"[{'.'.join('a' * 200)}]", "a dotted key of 200 parts"),
    "many long headers": ("\n".join(f"[x{i}.{'.'.join('a' * 200)}]" for i in range(300)), "line 1"),
    "deep lists on a line": ("a = " + "[" * 8000 + "]" * 8000, "line 1: brackets nested more than"),
    "deep lists": ("a = " + "[\n" * 60_000, f"line {MAX_DEPTH + 1}: brackets nested more than"),
    "deep tables": ("a = " + "{a=" * 3000 + "1" + "}" * 3000, "brackets nested more than"),
    "deep in both ways": ("a.b.c.d = {a.b.c.d = {a.b.c = 1}}", "nested more than 8 deep"),
    "5,000 digits": ("a = " + "1" * 5000, "line 1: a number of 5,000 characters"),
    "5,000 digits with a sign": ("\na = -" + "1_" * 2500 + "1", "line 2: a number of 5,002"),
    "5,000 digits of 16": ("a = 0x" + "f" * 5000, "a number of 5,002 characters"),
    "5,000 digits of a fraction": ("a = 0." + "1" * 5000, "a number of 5,000 characters"),
    "80 digits": ("[study]\nseed = " + "9" * 80, "'study.seed': a whole number of more than 64"),
    "1e400": ("[study]\nseed = 1e400", "'study.seed': inf is no finite number"),
    "not a number": ("a = [1.0, nan]", r"'a\[1\]': nan is no finite number"),
    "a NUL": ("a = 1\nb = '\0'", "line 2: holds a NUL character"),
    "an escaped NUL": ('[task]\nname = "a\\u0000"', "'task.name': holds a NUL character"),
    "a NUL in a key": ('"a\\u0000" = 1', "has a NUL or over 100 characters"),
    "a long line": (f"a = '{'x' * MAX_LINE}'", "more than the 16,384 that a line of a study has"),
    "a long text": ("a = '''\n" + ("x" * 6000 + "\n") * 2 + "'''", "'a': has 12,002 characters"),
    "half a character": ('a = "\\ud800"', "not valid TOML"),
    "UTF-16": ("a = 1".encode("utf-16"), "not valid TOML, saved as UTF-8"),
    "a text without an end": ("a\\'''\n" * 20_000, "not valid TOML"),
    "quotes": ("\n".join(['"' * 16_000] * 8), "not valid TOML"),
    "no date": ("a = 2024-99-99", "not valid TOML"),
}


@pytest.fixture
def peak():
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_name(tmp_path, peak, name):
    text, message = REFUSED[name]
    path = written(tmp_path, text)
    for read in (read_toml, load_study, load_task):
        start = time.perf_counter()
        with pytest.raises(StudyError, match=message) as caught:
            read(path)
        assert time.perf_counter() - start < SECONDS
        assert str(caught.value).startswith(str(path))
        assert len(str(caught.value)) < 1000
    assert peak() < 20


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"[x{i}.b.c.d.e.f.g.h]" for i in range(MAX_BYTES // 22)),
        "\n".join(f"x{i}.b.c.d.e.f.g.h=1" for i in range(MAX_BYTES // 23)),
        "\n".join(f"[a{i:x}]" for i in range(MAX_BYTES // 8)),
        "[[a.b]]\n" * (MAX_BYTES // 8),
        "a=[" + "1,\n" * (MAX_BYTES // 3 - 9) + "]",
        "a=[" + "{},\n" * (MAX_BYTES // 4 - 9) + "]",
        'a = """\n' + "\\\n" * (MAX_BYTES // 2 - 9) + '"""',
    ],
    ids=["headers", "dotted", "short headers", "lists of tables", "list", "tables", "escapes"],
)
def test_the_worst_that_is_parsed_costs_little(tmp_path, text):
    path = written(tmp_path, text)
    assert path.stat().st_size <= MAX_BYTES
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    read_toml(path)
    with pytest.raises(StudyError):
        load_study(path)
    assert time.perf_counter() - start < 2 * SECONDS  # it was read twice
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown / (2**20 if sys.platform == "darwin" else 2**10) < MEGABYTES


def test_all_wrong_values_are_named_at_once(tmp_path):
    text = '[study]\nname = "a\\u0000"\nseed = inf\n[task]\nname = [1, 99999999999999999999]\n'
    with pytest.raises(StudyError) as caught:
        load_study(written(tmp_path, text))
    told = str(caught.value)
    assert told.startswith("3 values cannot be used:")
    for place in ("'study.name'", "'study.seed'", "'task.name[1]'"):
        assert place in told


def test_what_looks_like_a_fault_within_a_text_is_none(tmp_path):
    note = "[[[[[[[[[[[[ {{{{{{{{{{{{ a.b.c.d.e.f.g.h.i.j.k.l.m " + "1" * 500 + " # ] مرحبا"
    for quotes in ("'", '"', "'''", '"""'):
        text = f"# {note}\n[study] # {note}\nnote = {quotes}{note}{quotes} # {note}\nname = 'x'\n"
        assert read_toml(written(tmp_path, text)) == {"study": {"note": note, "name": "x"}}
    odd = 'a = """x"""""\nb = \'\'\'y\'\'\'\'\nc = ""\nd = "\\""\n"e.\\"f".g = 1.5\nh = [[1.0, .5]]'
    with pytest.raises(StudyError, match="line 6"):  # .5 is no TOML; what precedes it is
        read_toml(written(tmp_path, odd))
    found = read_toml(written(tmp_path, odd.replace(" .5", " 0.5")))
    assert found == {
        "a": 'x""',
        "b": "y'",
        "c": "",
        "d": '"',
        'e."f': {"g": 1.5},
        "h": [[1.0, 0.5]],
    }


def test_a_byte_order_mark_is_accepted(tmp_path):
    text = find_study("nano-llava").read_bytes()
    read = load_study(written(tmp_path, b"\xef\xbb\xbf" + text))
    assert read == load_study(find_study("nano-llava"))


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "x/" * 3000, "مفقود"])
def test_no_file_of_such_a_name(name):
    with pytest.raises(StudyError, match="no such file, and no shipped study is called so"):
        find_study(name)


@pytest.mark.parametrize("base", [None, Path("/tmp")])
@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("storage", "runs", "a\0b"),
        ("storage", "runs", "x" * 300),
        ("storage", "runs", ""),
        ("backbone", "model", "a\0b"),
        ("backbone", "model", "x/" * 3000),
        ("backbone", "text_model", "a\0b"),
        ("backbone", "revision", "../../x"),
        ("task", "data", "a\0b"),
        ("task", "data", "é" * 200),
        ("task", "images", "x" * 300),
        ("task", "tune", {"split": "../x"}),
        ("task", "tune", {"split": "/etc/passwd"}),
        ("task", "tune", {"split": "a\0b"}),
        ("task", "report", {"split": "x" * 300}),
        ("study", "name", "../x"),
        ("study", "name", "a\0b"),
    ],
)
def test_names_of_files_and_folders(base, section, key, value):
    data = {
        "study": {"name": "s"},
        "backbone": {"model": "nano-llava"},
        "task": {"name": "table", "data": "q.jsonl", "tune": {"split": "tune"},
                 "report": {"split": "report"}},
        "search": {"budget": [22]},
        "storage": {},
    }  # fmt: skip
    assert study_from_dict(data, base=base)
    data[section] = {**data[section], key: value}
    with pytest.raises(StudyError, match=rf"study: {section}\.{key}"):
        study_from_dict(data, base=base)


@pytest.mark.parametrize("key", ["config", "revision", "dataset"])
@pytest.mark.parametrize("value", ["../other", "/etc", "a\0b", "x" * 300])
def test_a_data_set_stays_in_its_folder(key, value):
    if key == "dataset" and value[0] in "./":
        return  # a folder may be anywhere; what is read within it may not
    data = {
        "study": {"name": "s"},
        "backbone": {"model": "nano-llava"},
        "task": {"name": "pope", key: value, "tune": {"split": "a"}, "report": {"split": "b"}},
        "search": {"budget": [22]},
    }
    with pytest.raises(StudyError, match=rf"study: task\.{key}"):
        study_from_dict(data)
