"""Questions are read once."""

from __future__ import annotations

from typing import Any

from resprune.backbones import for_model
from resprune.nouns import NounExtractor
from resprune.prompt import PromptReader


def test_questions_are_remembered(tiny_llava: tuple[Any, Any]) -> None:
    reader = PromptReader(for_model(*tiny_llava), NounExtractor("resprune_en_nouns"), cache_size=2)
    first = reader.read("a dog")
    assert first.nouns == ["dog"]
    assert reader.read("a dog") is first
    reader.read("a cat")
    assert reader.read("a dog") is first
    reader.read("a table")
    assert reader.read("a dog") is first
    assert reader.read("a cat") == reader.read("a cat")
    assert len(reader._cache) == 2
