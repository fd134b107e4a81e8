"""The report of a study: one HTML page that loads nothing from anywhere.

`resprune-tune report RUN_DIR` writes `report.html` into the run folder.
"""

from __future__ import annotations

from pathlib import Path

from resprune.errors import StudyError
from resprune.files import write_text
from tuner.output.report.page import render
from tuner.results.schema import Results
from tuner.study import STUDY_FILE

REPORT_FILE = "report.html"


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder, beside and renamed.

    Args:
        run_dir: Holds `results.json`.

    Returns:
        Path of the page.

    Raises:
        StudyError: `results.json` is missing, or the folder cannot be written.
        ResPruneError: `results.json` is damaged.
    """
    results = Results.load(run_dir)
    try:
        study_toml = (run_dir / STUDY_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # shown for convenience; the results hold a copy
        study_toml = None
    path = run_dir / REPORT_FILE
    try:
        write_text(path, render(results, study_toml))
    except OSError as error:
        raise StudyError(f"{path}: cannot be written ({error.strerror})") from error
    return path
