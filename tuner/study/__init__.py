"""A study: the TOML file that says what is tuned, on which samples, over which settings.

``resprune-tune validate FILE`` checks one. Every wrong value is a ``StudyError`` that names the
file, the key, the value and the fix.
"""

from __future__ import annotations

from tuner.study.file import (
    STUDY_FILE,
    dump_study,
    find_study,
    load_study,
    study_from_dict,
    study_names,
)
from tuner.study.schema import BackboneSection, StudyConfig

__all__ = [
    "STUDY_FILE",
    "BackboneSection",
    "StudyConfig",
    "dump_study",
    "find_study",
    "load_study",
    "study_from_dict",
    "study_names",
]
