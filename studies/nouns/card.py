"""What is written beside the weights of the noun pipeline: its metadata and its card."""

from __future__ import annotations

from typing import Any

NAME = "resprune_nouns"
LICENSE = "CC BY-SA 4.0"
LICENSE_URL = "https://creativecommons.org/licenses/by-sa/4.0/"


def meta(version: str, settings: dict[str, object]) -> dict[str, Any]:
    """The entries of spaCy's ``meta.json``."""
    return {
        "name": NAME,
        "version": version,
        "spacy_version": ">=3.8.0,<4.0.0",
        "description": "Universal parts of speech for short English questions about pictures.",
        "author": "The ResPrune-Tune authors",
        "license": LICENSE,
        "sources": [
            {
                "name": "UD_English-EWT",
                "url": "https://github.com/UniversalDependencies/UD_English-EWT",
                "license": LICENSE,
                "author": "The Board of Trustees of The Leland Stanford Junior University",
            },
            {
                "name": "UD_English-Atis",
                "url": "https://github.com/UniversalDependencies/UD_English-Atis",
                "license": LICENSE,
                "author": "Aslı Kuzgun, Neslihan Cesur, Olcay Taner Yıldız, Starlang Software",
            },
        ],
        "training": settings,
    }


def readme(version: str, settings: dict[str, object]) -> str:
    """The card with the attribution that the licence asks for."""
    trained = ", ".join(f"{name} {value}" for name, value in settings.items())
    return f"""\
# resprune_en_nouns {version}

A spaCy pipeline (hashed sub-word features and a part-of-speech tagger) that finds the nouns of a
prompt. It is used when `en_core_web_sm` is not installed, or when a config names it.

## Licence and attribution

The files in this folder are licensed under {LICENSE} ({LICENSE_URL}, full text in `LICENSE`). The
rest of the project is under its own licence. The weights are adapted from two treebanks:

- **Universal Dependencies English Web Treebank** (UD_English-EWT, v2.16), annotations (c) 2013-2021
  by The Board of Trustees of The Leland Stanford Junior University, {LICENSE}. Its texts come from
  the English Web Treebank (LDC2012T13): parts in the public domain, portions (c) 2012 Google Inc.,
  (c) 2011 Yahoo! Inc., (c) 2012 Trustees of the University of Pennsylvania and/or other original
  authors. <https://github.com/UniversalDependencies/UD_English-EWT>
- **UD_English-Atis** by Aslı Kuzgun, Neslihan Cesur and Olcay Taner Yıldız, Starlang Software,
  {LICENSE}. <https://github.com/UniversalDependencies/UD_English-Atis>

Neither endorses this work.

## Changes made

The train splits were cut into words and parts of speech (all other annotation left out), partly
copied in lower case without final punctuation, and mixed with template questions written for this
project (`studies/nouns/templates.py`). A tagger was trained on the result. The folder holds its
weights and labels, and no sentence of a treebank; the test splits were not used.

## How it was made

`python -m studies.nouns.train --ewt DIR --atis DIR --out DIR` ({trained}). Figures are in
`docs/log.md`; `python -m studies.nouns.evaluate --ewt DIR` prints them again.

## Limits

English only, tuned to short questions; other languages get some tags, without promise. Verbs that
double as nouns ("park", "cross") are its commonest mistakes.
"""
