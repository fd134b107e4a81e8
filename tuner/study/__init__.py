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
from tuner.study.schema import (
    AdaptiveSection,
    AlphaSection,
    BackboneSection,
    ReportSection,
    SplitSpec,
    StorageSection,
    StudyConfig,
    StudySection,
    TaskSection,
)

__all__ = [
    "STUDY_FILE",
    "AdaptiveSection",
    "AlphaSection",
    "BackboneSection",
    "ReportSection",
    "SplitSpec",
    "StorageSection",
    "StudyConfig",
    "StudySection",
    "TaskSection",
    "dump_study",
    "find_study",
    "load_study",
    "study_from_dict",
    "study_names",
]
