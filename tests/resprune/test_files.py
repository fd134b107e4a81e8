from __future__ import annotations

import os
from pathlib import Path

import pytest

from resprune.files import publish, write_bytes, write_json_files, write_text, written_beside


def everything(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): p.read_text(encoding="utf-8")
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old é\n")
    assert path.read_bytes() == "old é\n".encode()
    with written_beside(path) as beside:
        assert beside.parent == tmp_path
        assert str(os.getpid()) in beside.name
        beside.write_text("ne", encoding="utf-8")
        assert path.read_bytes() == "old é\n".encode()
    assert everything(tmp_path) == {"file": "ne"}
    write_bytes(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", [{}, {"place": "old"}, {"place/a": "old", "place/b": "old"}])
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_an_error_leaves_all_as_it_was(
    tmp_path: Path, before: dict[str, str], folder: bool
) -> None:
    for name, text in before.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")

    def write() -> None:
        with written_beside(tmp_path / "place", swap=True) as beside:
            if folder:
                beside.mkdir()
            (beside / "a" if folder else beside).write_text("half", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert everything(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == min(1, len(before))


def test_the_error_of_the_write_is_the_one_that_is_raised(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()

    def write() -> None:
        with written_beside(folder / "page"):
            folder.rmdir()
            folder.write_text("now nothing can be removed from it", encoding="utf-8")
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        write()


def test_what_a_killed_process_left_does_not_get_in(tmp_path: Path) -> None:
    with written_beside(tmp_path / "place") as beside:
        beside.write_text("", encoding="utf-8")
    beside.mkdir()
    (beside / "stale").write_text("", encoding="utf-8")
    with written_beside(tmp_path / "place") as again:
        assert again == beside
        again.write_text("new", encoding="utf-8")
    assert everything(tmp_path) == {"place": "new"}


def test_a_folder_takes_the_place_of_a_full_one_only_when_told(tmp_path: Path) -> None:
    def write(*, swap: bool) -> None:
        with written_beside(tmp_path / "place", swap=swap) as beside:
            beside.mkdir()
            (beside / "b").write_text("new", encoding="utf-8")

    (tmp_path / "place").mkdir()
    write(swap=False)
    assert everything(tmp_path) == {"place/b": "new"}
    (tmp_path / "place" / "a").write_text("old", encoding="utf-8")
    with pytest.raises(OSError, match="not empty"):
        write(swap=False)
    assert everything(tmp_path) == {"place/a": "old", "place/b": "new"}
    write(swap=True)
    assert everything(tmp_path) == {"place/b": "new"}
    assert [p.name for p in tmp_path.iterdir()] == ["place"]


def test_the_old_folder_comes_back_where_the_new_one_cannot_be_renamed(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "a").write_text("old", encoding="utf-8")
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "missing", tmp_path / "place", swap=True)
    assert everything(tmp_path) == {"place/a": "old"}


def test_json_files_are_renamed_together_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = []
    replace = os.replace

    def noted(source: Path, target: Path) -> None:
        renamed.append(target.name)
        assert len(list(tmp_path.iterdir())) == 2  # both are written before the first rename
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted)
    write_json_files({tmp_path / "first": [1], tmp_path / "second": {"é": None}})
    assert renamed == ["first", "second"]
    assert everything(tmp_path) == {"first": "[\n  1\n]\n", "second": '{\n  "é": null\n}\n'}
    with pytest.raises(ValueError, match="JSON"):
        write_json_files({tmp_path / "first": [2], tmp_path / "second": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        write_json_files({tmp_path / "first": float("nan"), tmp_path / "second": 2})
    assert everything(tmp_path) == {"first": "[\n  1\n]\n", "second": '{\n  "é": null\n}\n'}
    assert len(list(tmp_path.iterdir())) == 2
