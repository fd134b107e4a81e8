from __future__ import annotations

import json
import socket
import subprocess
import sys
from importlib import metadata
from typing import NoReturn

import pytest

from resprune.errors import ResPruneError
from resprune.nouns import EMBEDDED, NounExtractor, PipelineError, available, pipelines


class _Package:
    version = "9.9.9"


class _Point:
    dist = _Package()

    def __init__(self, name: str) -> None:
        self.name = name


def _install(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def entry_points(group: str) -> list[_Point]:
        assert group == "spacy_models"
        return [_Point(name) for name in names]

    monkeypatch.setattr(metadata, "entry_points", entry_points)


def test_default_is_embedded_without_spacy_models(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch)
    assert NounExtractor().pipeline_name == EMBEDDED
    assert available() == [EMBEDDED]


def test_default_prefers_en_core_web_sm(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, "de_core_news_sm", "en_core_web_sm")
    extractor = NounExtractor()
    assert (extractor.pipeline_name, extractor.pipeline_version) == ("en_core_web_sm", "9.9.9")
    assert NounExtractor(EMBEDDED).pipeline_name == EMBEDDED


def test_a_pinned_pipeline_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, "en_core_web_md")
    with pytest.raises(PipelineError) as caught:
        NounExtractor("en_core_web_sm")
    message = str(caught.value)
    assert isinstance(caught.value, ResPruneError)
    for part in ("'en_core_web_sm'", "en_core_web_md", EMBEDDED, "spacy download en_core_web_sm"):
        assert part in message


@pytest.mark.parametrize("name", ["json", "/tmp", "", "../x", str(pipelines.embedded_folder())])
def test_paths_and_other_modules_are_no_pipelines(name: str) -> None:
    with pytest.raises(PipelineError, match="not installed"):
        NounExtractor(name)


def test_a_pipeline_without_tags_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import spacy

    _install(monkeypatch, "xx_blank")
    monkeypatch.setattr(spacy, "load", lambda source, exclude: spacy.blank("xx"))
    with pytest.raises(PipelineError, match=r"'xx_blank' sets no parts of speech.*en_core_web_sm"):
        NounExtractor("xx_blank").nouns("Is the dog near the pipeline without tags?")


def test_version_is_that_of_the_files() -> None:
    meta = json.loads((pipelines.embedded_folder() / "meta.json").read_text(encoding="utf-8"))
    assert NounExtractor(EMBEDDED).pipeline_version == meta["version"]


def test_licence_and_attribution_lie_beside_the_weights() -> None:
    folder = pipelines.embedded_folder()
    licence = (folder / "LICENSE").read_text(encoding="utf-8")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Attribution-ShareAlike 4.0 International" in licence
    for part in ("UD_English-EWT", "UD_English-Atis", "CC BY-SA 4.0", "Changes made"):
        assert part in card


def test_files_are_small_and_hold_no_sentence_and_no_pickle() -> None:
    folder = pipelines.embedded_folder()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 4_000_000
    assert not [path for path in files if path.suffix in (".pkl", ".pt", ".bin.pickle")]
    strings = json.loads((folder / "vocab" / "strings.json").read_text(encoding="utf-8"))
    assert all(string.startswith("POS=") for string in strings)


def test_loading_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> NoReturn:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    pipelines.load.cache_clear()
    assert NounExtractor(EMBEDDED).nouns("Is the network off near the tower?") == [
        "network",
        "tower",
    ]


def test_spacy_is_not_imported_before_a_prompt_comes() -> None:
    code = (
        "import sys, resprune.nouns as n; e = n.NounExtractor(n.EMBEDDED); e.pipeline_version; "
        "e.nouns(''); assert not {'spacy', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
