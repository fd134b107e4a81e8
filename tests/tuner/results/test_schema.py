from __future__ import annotations

import json

import pytest

from resprune.errors import StudyError
from tuner.results.schema import RESULTS_FILE, RESULTS_SCHEMA, Results


def test_round_trip(tmp_path, results):
    results.save(tmp_path)
    assert Results.load(tmp_path) == results


def test_missing_torn_newer_and_wrong_results(tmp_path, results_data):
    path = tmp_path / RESULTS_FILE
    with pytest.raises(StudyError, match=r"not found; `resprune-tune run`"):
        Results.load(tmp_path)
    path.write_text(json.dumps(results_data)[:100])
    with pytest.raises(StudyError, match="not valid JSON"):
        Results.load(tmp_path)
    path.write_text(json.dumps({**results_data, "schema_version": RESULTS_SCHEMA + 1}))
    with pytest.raises(StudyError, match="is newer than"):
        Results.load(tmp_path)
    path.write_text(json.dumps({**results_data, "recommended": "many"}))
    with pytest.raises(StudyError, match="recommended"):
        Results.load(tmp_path)
