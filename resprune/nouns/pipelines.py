"""Finds and loads the spaCy pipelines that can tag a prompt.

A pipeline is a name: of an installed spaCy model package, or of the one embedded here. Paths are
not accepted, since the name may come from a config that somebody else wrote, and a spaCy pipeline
on disk can name code to run.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from resprune.errors import ResPruneError, near_names

if TYPE_CHECKING:
    from spacy.language import Language

EMBEDDED = "resprune_en_nouns"
PREFERRED = "en_core_web_sm"

# Slow, and no part of speech depends on them.
_UNUSED = ("parser", "ner", "senter", "lemmatizer", "entity_linker", "textcat")


class PipelineError(ResPruneError):
    """A noun pipeline that is not installed or cannot tag parts of speech."""


def embedded_folder() -> Path:
    """The folder of the embedded pipeline, its version in the name.

    Raises:
        PipelineError: if the installation holds no such folder, or several.
    """
    found = sorted(Path(__file__).parent.glob(f"{EMBEDDED}-*/meta.json"))
    if len(found) != 1:
        raise PipelineError(
            f"the noun pipeline {EMBEDDED!r} should lie once in {Path(__file__).parent}, "
            f"{len(found)} found; reinstall the package"
        )
    return found[0].parent


def available() -> list[str]:
    """Names of the pipelines that can be used here: spaCy model packages and the embedded one."""
    return [*sorted(_packages()), EMBEDDED]


def resolve(name: str | None) -> str:
    """The name of the pipeline to use; None is ``en_core_web_sm`` if installed, else the embedded.

    Raises:
        PipelineError: if ``name`` is not available.
    """
    names = available()
    if name is None:
        return PREFERRED if PREFERRED in names else EMBEDDED
    if name not in names:
        raise PipelineError(
            f"noun pipeline {name!r} is not installed. {near_names(name, names)} "
            f"Install it (`python -m spacy download {name}`) or name one of these as pipeline"
        )
    return name


def version(name: str) -> str:
    """The version of an available pipeline, without loading it."""
    if name == EMBEDDED:
        return embedded_folder().name.removeprefix(f"{EMBEDDED}-")
    return _packages()[name]


@lru_cache(maxsize=4)
def load(name: str) -> Language:
    """Loads an available pipeline, less the components that parts of speech do not need.

    Raises:
        PipelineError: if the pipeline does not tag parts of speech.
    """
    import spacy

    source = embedded_folder() if name == EMBEDDED else name
    nlp = spacy.load(source, exclude=list(_UNUSED))
    if not nlp("What is on the table?").has_annotation("POS"):
        raise PipelineError(
            f"noun pipeline {name!r} sets no parts of speech; use one with a tagger, such as "
            f"{PREFERRED!r} or {EMBEDDED!r}"
        )
    return nlp


def _packages() -> dict[str, str]:
    """Installed spaCy model packages and their versions; they register in this group."""
    points = metadata.entry_points(group="spacy_models")
    return {point.name: point.dist.version if point.dist else "unknown" for point in points}
