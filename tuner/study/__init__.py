"""A study: the TOML file that says what is tuned, on which samples, over which settings.

``resprune-tune validate FILE`` checks one. Every wrong value is a ``StudyError`` that names the
file, the key, the value and the fix.
"""

from __future__ import annotations

from tuner.study.budget import check_budget
from tuner.study.file import (
    STUDY_FILE,
    dump_study,
    find_study,
    load_study,
    study_from_dict,
    study_names,
)
from tuner.study.schema import (
    AlphaRange,
    AlphaSection,
    BackboneSection,
    ObjectiveSpec,
    ReportSection,
    SearchSection,
    SplitSpec,
    StorageSection,
    StudyConfig,
    StudySection,
    TaskSection,
)

__all__ = [
    "STUDY_FILE",
    "AlphaRange",
    "AlphaSection",
    "BackboneSection",
    "ObjectiveSpec",
    "ReportSection",
    "SearchSection",
    "SplitSpec",
    "StorageSection",
    "StudyConfig",
    "StudySection",
    "TaskSection",
    "check_budget",
    "dump_study",
    "find_study",
    "load_study",
    "study_from_dict",
    "study_names",
]
