"""JSON that may come from anyone: refused by name, in little time and memory."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import pytest

from resprune import PruningConfig
from resprune.config import CONFIG_FILE
from resprune.errors import ConfigError
from resprune.files import read_json
from resprune.files.jsonfile import MAX_DEPTH
from resprune.validation import shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 2000 + "1" + "}" * 2000, "nested too deeply"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested too deeply"),
        ('{"a": ' + "1" * 5000 + "}", "a whole number of 5,000 digits"),
        ('{"a": -' + "1" * 30 + "}", "a whole number of 31 digits"),
        ('{"a": 1e400}', "1e400 is too large a number"),
        ('{"a": -1e999999}', "-1e999999 is too large a number"),
        ('{"a": 1.' + "0" * 50 + "e" + "9" * 5000 + "}", "is too large a number"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' is given twice"),
        ('{"' + "a" * 5000 + '": 1, "' + "a" * 5000 + '": 3}', "key 'a{80}' is given twice"),
        ('{"a": "\0"}', "not valid JSON at line 1"),
        ("", "it ends too early"),
        ('{"a": "x', "not valid JSON at line 1"),
    ],
)
def test_it_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_json(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 500


def test_brackets_within_texts_and_what_is_just_allowed_are_read(tmp_path: Path) -> None:
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    data = {"a": "[" * 500, "b\\": '"[{\\', "c": [2**63 - 1, -(2**63), -0.0, 1e308]}
    (tmp_path / "x.json").write_text(json.dumps(data))
    assert read_json(tmp_path / "x.json") == data
    (tmp_path / "y.json").write_text(deep)
    assert read_json(tmp_path / "y.json") == json.loads(deep)


def test_a_late_repetition_among_many_keys_takes_no_time(tmp_path: Path) -> None:
    names = [*(f"k{i}" for i in range(100_000)), "k99999"]
    (tmp_path / "x.json").write_text("{" + ", ".join(f'"{name}": 0' for name in names) + "}")
    start = time.perf_counter()
    with pytest.raises(ConfigError, match="'k99999' is given twice"):
        read_json(tmp_path / "x.json")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "table",
    ['"table": [' + "{}," * 500_000 + "{}]", ",".join(f'"k{i}": 0' for i in range(100_000))],
    ids=["policies", "keys"],
)
def test_a_config_of_many_wrong_things_is_no_bomb(tmp_path: Path, table: str) -> None:
    text = f'{{"default": 11, {table}}}'
    (tmp_path / CONFIG_FILE).write_text(text)
    tracemalloc.start()
    with pytest.raises(ConfigError) as caught:
        PruningConfig.from_pretrained(tmp_path)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert str(tmp_path / CONFIG_FILE) in str(caught.value)
    assert peak < 200


@pytest.mark.parametrize("schema", [1, 2])
def test_a_table_has_a_bound(tmp_path: Path, schema: int) -> None:
    key = "budgets" if schema == 1 else "table"
    data = {"schema_version": schema, key: [{}] * 1001, "default": 1, "default_budget": 1}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=rf"{CONFIG_FILE}: .*{key}"):
        PruningConfig.from_pretrained(tmp_path)


def test_what_cannot_be_shown_is_still_told() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    assert shown(deep) == "a list too deep or too long to show"
    assert shown(16**5000) == "a int too deep or too long to show"
    assert shown("x" * 10**6) == "'" + "x" * 78 + "…"
    assert shown("short") == "'short'"
