"""Some hundred bad inputs, none of which ends in a traceback; and that one would be noticed."""

from __future__ import annotations

import pytest

from resprune import PruningConfig
from resprune.errors import StudyError
from tests import fuzz
from tests.fuzzing.kinds import KINDS
from tuner import imagefile

CASES = range(300)
SEED = 7


@pytest.fixture(scope="module")
def report() -> fuzz.Report:
    return fuzz.run(SEED, CASES)


def test_nothing_bad_ends_in_a_traceback(report: fuzz.Report) -> None:
    assert report.failures == []
    assert sum(report.outcomes.values()) == len(CASES)
    assert report.slowest[0] < fuzz.SECONDS
    assert report.grown < fuzz.MEBIBYTES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outcome", ["read", "refused"])
def test_faults_are_small_enough_that_every_kind_is_read_and_refused(
    report: fuzz.Report, kind: str, outcome: str
) -> None:
    assert report.outcomes[kind, outcome] > 0


def test_settings_that_it_changes_are_put_back(report: fuzz.Report) -> None:
    assert imagefile.MAX_PIXELS == 2**26


def first(kind: str) -> int:
    return next(number for number in CASES if fuzz.kind_of(SEED, number)[1] == kind)


def test_an_error_that_is_none_of_ours_is_noticed_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("planted")

    number = first("config")
    monkeypatch.setattr(PruningConfig, "from_pretrained", broken)
    assert fuzz.main(["--seed", str(SEED), "--only", str(number)]) == 1
    printed = capsys.readouterr()
    assert f"--seed {SEED} --only {number}: config: Traceback" in printed.err
    assert "KeyError: 'planted'" in printed.err
    assert "1 failures" in printed.out
    monkeypatch.undo()
    assert fuzz.main(["--seed", str(SEED), "--only", str(number)]) == 0


@pytest.mark.parametrize(
    ("message", "said"),
    [("something is wrong", "names no file"), ("task " + "x" * 20_001, "a message of 20,006")],
)
def test_an_error_that_names_no_file_is_noticed(
    monkeypatch: pytest.MonkeyPatch, message: str, said: str
) -> None:
    def vague(*_: object) -> None:
        raise StudyError(message)

    monkeypatch.setattr("tuner.study.load_study", vague)
    ((_, kind, why),) = fuzz.run(SEED, [first("study")]).failures
    assert kind == "study"
    assert said in why


def test_what_takes_long_hangs_or_grows_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def failure(**limits: float) -> str:
        with monkeypatch.context() as patched:
            for name, value in limits.items():
                patched.setattr(fuzz, name, value)
            ((_, _, why),) = fuzz.run(SEED, [first("image")]).failures
        return why

    assert failure(SECONDS=0).startswith("took 0.")
    assert failure(MEBIBYTES=-1).startswith("memory grew by")

    def endless(*_: object) -> None:
        while True:
            try:
                while True:
                    pass
            except Exception:
                continue

    monkeypatch.setattr(imagefile, "open_image", endless)
    monkeypatch.setattr(fuzz, "_WARM_UP", 0)
    assert failure(HANGS=1) == "broken off after 1 s"


def test_a_case_depends_on_seed_and_number_alone(tmp_path) -> None:  # type: ignore[no-untyped-def]
    written = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        for number in CASES[:40]:
            folder = tmp_path / name / str(number)
            folder.mkdir()
            rng, kind = fuzz.kind_of(SEED, number)
            KINDS[kind][0](rng, folder)
        written.append(
            {
                str(path.relative_to(tmp_path / name)): path.read_bytes()
                for path in sorted((tmp_path / name).rglob("*"))
                if path.is_file()
            }
        )
    assert written[0] == written[1]
