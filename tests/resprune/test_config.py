"""The pruning config: what is accepted, what every kind of wrong file says, and round trips."""

import json
import os
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resprune import config as module
from resprune.alpha import FEATURE_NAMES
from resprune.config import (
    ALPHA_MAX,
    CONFIG_FILE,
    PAPER_DEFAULTS,
    SCHEMA_VERSION,
    PruningConfig,
)
from resprune.errors import ConfigError
from resprune.files import MAX_FILE_BYTES

GOOD = {
    "schema_version": 1,
    "library_version": "0.1.0",
    "backbone": {"family": "llava", "id": "nano-llava", "width": 128, "visual_tokens": 196},
    "budgets": [
        {"budget": 11, "alpha": 0.25, "seed_strategy": "cls_attention"},
        {"budget": 6, "alpha": 1, "seed_strategy": "l2_norm"},
        {"budget": 0.5, "alpha": 0.0},
    ],
    "default_budget": 11,
    "nouns": {"pipeline": "resprune_en_nouns", "version": "0.1.0", "stop_nouns": ["image"]},
}


def write(folder, data, name=CONFIG_FILE):
    folder.mkdir(exist_ok=True)
    text = data if isinstance(data, str) else json.dumps(data)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def changed(path, value):
    """Return GOOD with one value replaced; the path is a tuple of keys."""
    data = deepcopy(GOOD)
    place = data
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return data


# -- round trips -------------------------------------------------------------------------


def test_a_good_file_reads_and_writes_back_the_same(tmp_path):
    config = PruningConfig.from_pretrained(write(tmp_path / "a", GOOD))
    config.save_pretrained(tmp_path / "b")
    again = PruningConfig.from_pretrained(tmp_path / "b")
    assert again == config
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [CONFIG_FILE]
    assert config.entry().budget == 11
    assert config.entry(6).alpha == 1.0
    assert isinstance(config.entry(6).alpha, float)
    assert config.entry(0.5).seed_strategy == "l2_norm"


budgets = st.integers(1, 5000) | st.floats(0, 1, exclude_min=True)


@given(budgets, st.floats(0, ALPHA_MAX))
def test_json_keeps_counts_counts_and_ratios_ratios(budget, alpha):
    config = PruningConfig.single(budget, alpha=alpha)
    again = PruningConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert type(again.entry().budget) is type(budget)
    assert again.entry(budget).alpha == alpha


def test_a_count_of_1_and_a_ratio_of_1_are_two_budgets():
    rows = [{"budget": 1, "alpha": 0.5}, {"budget": 1.0, "alpha": 2.0}]
    config = PruningConfig.from_dict({"budgets": rows, "default_budget": 1.0})
    config = PruningConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert config.entry(1).alpha == 0.5
    assert config.entry(1.0).alpha == 2.0
    assert config.entry().alpha == 2.0


def test_a_budget_counted_by_numpy_is_found():
    numpy = pytest.importorskip("numpy")
    assert PruningConfig.single(11).entry(numpy.int64(11)).budget == 11


def test_the_file_says_which_library_wrote_it(tmp_path):
    config = PruningConfig.from_dict(changed(("library_version",), "0.0.1"))
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert written["library_version"] == module.__version__


def test_the_papers_defaults_by_family():
    # ResPrune, arXiv 2603.21105: LLaVA alpha 0.75 with CLS attention, Qwen2.5-VL 0.3 with L2 norm
    assert PAPER_DEFAULTS["llava"] == (0.75, "cls_attention")
    assert PAPER_DEFAULTS["qwen2_5_vl"] == (0.3, "l2_norm")
    known = PruningConfig.paper_default("llava", 64)
    assert (known.entry().alpha, known.untested) == (0.75, False)
    other = PruningConfig.paper_default("somebody_elses", 0.25)
    assert (other.entry().alpha, other.entry().seed_strategy) == (0.5, "l2_norm")
    assert other.untested


# -- wrong values ------------------------------------------------------------------------

WRONG = {
    # path, value, what the message must name
    "alpha below": (("budgets", 0, "alpha"), -0.1, ["budgets[0].alpha", "-0.1", "0 to 16"]),
    "alpha above": (("budgets", 1, "alpha"), 16.5, ["budgets[1].alpha", "16.5", "0 to 16"]),
    "alpha a word": (("budgets", 0, "alpha"), "adaptve", ["'adaptve'", "'adaptive'"]),
    "alpha quoted": (("budgets", 0, "alpha"), "0.5", ["budgets[0].alpha", "'0.5'"]),
    "alpha a bool": (("budgets", 0, "alpha"), True, ["budgets[0].alpha", "True"]),
    "alpha null": (("budgets", 0, "alpha"), None, ["budgets[0].alpha", "None"]),
    "alpha inf": (("budgets", 0, "alpha"), float("inf"), ["budgets[0].alpha", "inf"]),
    "alpha nan": (("budgets", 0, "alpha"), float("nan"), ["budgets[0].alpha", "nan"]),
    "budget 0": (("budgets", 0, "budget"), 0, ["budgets[0].budget", "0", "1 or more"]),
    "budget negative": (("budgets", 0, "budget"), -3, ["budgets[0].budget", "-3"]),
    "budget 0.0": (("budgets", 0, "budget"), 0.0, ["budgets[0].budget", "0.0", "over 0"]),
    "budget 1.5": (("budgets", 0, "budget"), 1.5, ["budgets[0].budget", "1.5", "up to 1.0"]),
    "budget a bool": (("budgets", 0, "budget"), True, ["budgets[0].budget", "True"]),
    "budget quoted": (("budgets", 0, "budget"), "11", ["budgets[0].budget", "'11'"]),
    "budget nan": (("budgets", 0, "budget"), float("nan"), ["budgets[0].budget", "nan"]),
    "budget over T": (("budgets", 1, "budget"), 197, ["197", "196"]),
    "budget twice": (("budgets", 0, "budget"), 6, ["twice", "6, 6, 0.5"]),
    "default bool": (("default_budget",), True, ["default_budget", "True"]),
    "default elsewhere": (("default_budget",), 12, ["default_budget 12", "11, 6, 0.5"]),
    "no rows": (("budgets",), [], ["budgets", "at least 1"]),
    "rows a dict": (("budgets",), {"11": 0.5}, ["budgets", "{'11': 0.5}"]),
    "row a number": (("budgets", 0), 11, ["budgets[0]", "11"]),
    "seed strategy": (
        ("budgets", 0, "seed_strategy"),
        "cls_atention",
        ["budgets[0].seed_strategy", "'cls_atention'", "mean 'cls_attention'", "l2_norm"],
    ),
    "pooling": (("pooling",), "maximum", ["pooling", "'maximum'", "mean, pooled"]),
    "normalization": (("normalization",), 3, ["normalization", "3", "minmax"]),
    "positions": (("positions",), "kept", ["positions", "mean 'keep'"]),
    "method": (("method",), "resprun", ["method", "'resprun'", "mean 'resprune'"]),
    "method number": (("method",), 7, ["method", "string", "7"]),
    "eps zero": (("eps",), 0.0, ["eps", "greater than 0", "0.0"]),
    "eps quoted": (("eps",), "0.01", ["eps", "number", "'0.01'"]),
    "width quoted": (("backbone", "width"), "128", ["backbone.width", "'128'"]),
    "width bool": (("backbone", "width"), True, ["backbone.width", "True"]),
    "no family": (("backbone",), {"id": "x"}, ["backbone.family", "missing"]),
    "compounds": (("nouns", "compounds"), "yes", ["nouns.compounds", "'yes'"]),
    "stop nouns": (("nouns", "stop_nouns"), "image", ["nouns.stop_nouns", "'image'"]),
    "schema newer": (("schema_version",), SCHEMA_VERSION + 1, ["schema_version 2", "upgrade"]),
    "schema zero": (("schema_version",), 0, ["schema_version", "0"]),
    "schema quoted": (("schema_version",), "1", ["schema_version", "'1'"]),
    "unknown key": (("pooing",), "max", ["unknown key 'pooing'", "mean 'pooling'"]),
    "unknown in a row": (("budgets", 0, "alfa"), 1, ["'budgets[0].alfa'", "mean 'alpha'"]),
    "unknown in nouns": (("nouns", "pipelin"), "x", ["'nouns.pipelin'", "mean 'pipeline'"]),
    "unknown in backbone": (("backbone", "famly"), "x", ["'backbone.famly'", "mean 'family'"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_refused_by_place_and_value(case):
    path, value, expected = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        PruningConfig.from_dict(changed(path, value), where="x/pruning_config.json")
    message = str(caught.value)
    assert message.startswith("x/pruning_config.json: ")
    assert "\n" not in message
    assert len(message) < 500
    for part in expected:
        assert part in message


def test_a_long_wrong_value_is_cut_short():
    with pytest.raises(ConfigError) as caught:
        PruningConfig.from_dict(changed(("pooling",), "x" * 10_000))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("missing", ["budgets", "default_budget"])
def test_a_missing_key_is_named(missing):
    data = {key: GOOD[key] for key in GOOD if key != missing}
    with pytest.raises(ConfigError, match=f"'{missing}' is missing"):
        PruningConfig.from_dict(data)


@pytest.mark.parametrize("data", [[], "x", 3, None])
def test_what_is_not_an_object_is_refused(data):
    with pytest.raises(ConfigError, match="JSON object"):
        PruningConfig.from_dict(data)


@pytest.mark.parametrize("budget", [12, 11.0, True, 0, "11", object()])
def test_a_budget_outside_the_table_lists_its_entries(budget):
    with pytest.raises(ConfigError, match=r"lists 11, 6, 0\.5"):
        PruningConfig.from_dict(GOOD).entry(budget)


def test_a_config_does_not_change():
    config = PruningConfig.from_dict(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        config.eps = 0.5


# -- other versions ----------------------------------------------------------------------


def newer(data):
    return {**data, "library_version": "99.0.0"}


def test_unknown_keys_of_a_newer_library_warn_wherever_they_are():
    data = newer(changed(("budgets", 0, "warmth"), 3))
    data["colour"] = {"a": 1}
    data["nouns"]["accent"] = "x"
    with pytest.warns(UserWarning, match="newer") as caught:
        config = PruningConfig.from_dict(data, where="there")
    (warning,) = caught
    for name in ("there", "99.0.0", "colour", "budgets[0].warmth", "nouns.accent"):
        assert name in str(warning.message)
    assert config.budgets == PruningConfig.from_dict(GOOD).budgets
    assert data["colour"] == {"a": 1}  # the caller's data is left alone


@pytest.mark.filterwarnings("ignore:.*newer")
def test_a_wrong_value_of_a_newer_library_is_still_an_error():
    data = newer(changed(("pooling",), "softmax"))
    data["colour"] = 1
    with pytest.raises(ConfigError, match=r"pooling.*softmax.*99\.0\.0"):
        PruningConfig.from_dict(data)


@pytest.mark.parametrize("version", ["0.0.9", "0.1.0", "", "nonsense", "-1"])
def test_unknown_keys_of_this_or_an_older_library_are_errors(version):
    data = {**changed(("colour",), 1), "library_version": version}
    with pytest.raises(ConfigError, match="unknown key 'colour'"):
        PruningConfig.from_dict(data)


# -- wrong files -------------------------------------------------------------------------

TORN = json.dumps(GOOD)[:-40]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (TORN, "line 1"),
        ("", "ends too early"),
        ("{}\n{}", "line 2"),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps(changed(("eps",), float("nan"))), "NaN is not a JSON number"),
        (json.dumps(changed(("eps",), float("-inf"))), "-Infinity is not a JSON number"),
        ('{"budgets": [], "budgets": []}', "'budgets' is given twice"),
        ('{"schema_version": ' + "9" * 5000 + "}", "digits"),
        ("[1, 2]", "JSON object"),
    ],
)
def test_a_damaged_file_says_where(tmp_path, content, expected):
    write(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        PruningConfig.from_pretrained(tmp_path)
    assert expected in str(caught.value)
    assert str(tmp_path / CONFIG_FILE) in str(caught.value)


def test_what_is_not_utf8_is_refused_and_a_byte_order_mark_is_not(tmp_path):
    (tmp_path / CONFIG_FILE).write_bytes(json.dumps(GOOD).encode("utf-16"))
    with pytest.raises(ConfigError, match="not UTF-8 text at byte 0"):
        PruningConfig.from_pretrained(tmp_path)
    (tmp_path / CONFIG_FILE).write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert PruningConfig.from_pretrained(tmp_path).default_budget == 11


def test_a_huge_file_is_not_parsed(tmp_path):
    with (tmp_path / CONFIG_FILE).open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ConfigError, match="larger than"):
        PruningConfig.from_pretrained(tmp_path)


def test_a_link_to_a_folder_and_links_to_files_are_followed(tmp_path):
    write(tmp_path / "blobs", GOOD, "abc")  # the layout of the hub's cache
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / CONFIG_FILE).symlink_to("../blobs/abc")
    (tmp_path / "link").symlink_to("snapshot")
    assert PruningConfig.from_pretrained(tmp_path / "link").default_budget == 11
    assert PruningConfig.from_pretrained(str(tmp_path / "link")).default_budget == 11


def test_a_dead_link_is_no_config(tmp_path):
    (tmp_path / CONFIG_FILE).symlink_to("nowhere")
    with pytest.raises(ConfigError, match="resprune-tune export"):
        PruningConfig.from_pretrained(tmp_path)


def test_the_models_own_config_is_not_taken_for_ours(tmp_path):
    write(tmp_path, {"model_type": "llava"}, "config.json")
    with pytest.raises(ConfigError, match="model's own"):
        PruningConfig.from_pretrained(tmp_path)


def test_the_file_itself_is_not_the_folder(tmp_path):
    write(tmp_path, GOOD)
    with pytest.raises(ConfigError, match="give the folder"):
        PruningConfig.from_pretrained(str(tmp_path / CONFIG_FILE))


@pytest.fixture
def no_hub(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError(f"the hub was asked for {args}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["./nope", "/nope/x", "a/b/c", "~/nope", "", "  ", "a\0b", "."])
def test_a_missing_folder_is_not_asked_of_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        PruningConfig.from_pretrained(name)


@pytest.mark.usefixtures("no_hub")
def test_a_path_object_is_never_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        PruningConfig.from_pretrained(Path("user/name"))


def test_a_hub_id_reads_only_the_config_files(tmp_path, monkeypatch):
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(write(tmp_path / "snapshot", GOOD))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert PruningConfig.from_pretrained("user/name", revision="abc").default_budget == 11
    assert asked == {
        "name": "user/name",
        "revision": "abc",
        "allow_patterns": [CONFIG_FILE, module.PREDICTOR_FILE],
    }


def test_a_hub_that_refuses_is_said_in_one_line(tmp_path, monkeypatch):
    def download(name, **options):
        raise RuntimeError("401 for url\nmore")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^user/name: no such folder.*401 for url\)$"):
        PruningConfig.from_pretrained("user/name")


# -- adaptive alpha ----------------------------------------------------------------------


def predictor_data(*budgets):
    """Return an alpha_predictor.json that gives every prompt alpha 0.5."""
    rows = [
        {"budget": b, "mean_losses": [0.3, 0.2], "strength": 0.0, "model": None} for b in budgets
    ]
    ones, zeros = [1.0], [0.0]
    numbers = {"center": zeros, "scale": ones, "low": zeros, "high": ones, "alphas": [0.0, 0.5]}
    return {"schema_version": 1, "features": [FEATURE_NAMES[0]], **numbers, "budgets": rows}


def test_adaptive_alpha_brings_its_predictor(tmp_path):
    write(tmp_path / "a", changed(("budgets", 0, "alpha"), "adaptive"))
    write(tmp_path / "a", predictor_data(11), module.PREDICTOR_FILE)
    config = PruningConfig.from_pretrained(tmp_path / "a")
    config.save_pretrained(tmp_path / "b")
    again = PruningConfig.from_pretrained(tmp_path / "b")
    assert again.to_dict() == config.to_dict()
    assert again.entry().alpha == "adaptive"
    assert again.predictor is not None
    assert again.predictor.to_dict() == predictor_data(11)
    PruningConfig.single(11).save_pretrained(tmp_path / "b")
    assert [p.name for p in (tmp_path / "b").iterdir()] == [CONFIG_FILE]


def test_adaptive_alpha_without_a_predictor_is_refused(tmp_path):
    write(tmp_path, changed(("budgets", 0, "alpha"), "adaptive"))
    with pytest.raises(ConfigError, match=r"'adaptive' at budget \[11\].*alpha_predictor\.json"):
        PruningConfig.from_pretrained(tmp_path)


def test_a_predictor_for_other_budgets_is_refused(tmp_path):
    write(tmp_path, changed(("budgets", 0, "alpha"), "adaptive"))
    write(tmp_path, predictor_data(6, 22), module.PREDICTOR_FILE)
    with pytest.raises(ConfigError, match=r"11.*6, 22"):
        PruningConfig.from_pretrained(tmp_path)


def test_a_damaged_predictor_names_its_file(tmp_path):
    write(tmp_path, changed(("budgets", 0, "alpha"), "adaptive"))
    write(tmp_path, {**predictor_data(11), "scale": [0.0]}, module.PREDICTOR_FILE)
    with pytest.raises(ConfigError, match=r"alpha_predictor\.json.*scale"):
        PruningConfig.from_pretrained(tmp_path)


# -- writing -----------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_files(tmp_path, monkeypatch):
    PruningConfig.single(11).save_pretrained(tmp_path)
    before = (tmp_path / CONFIG_FILE).read_bytes()

    def full_disk(self, *args, **options):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full_disk)
    with pytest.raises(ConfigError, match="No space left"):
        PruningConfig.single(6).save_pretrained(tmp_path)
    assert (tmp_path / CONFIG_FILE).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [CONFIG_FILE]


def test_a_folder_that_is_a_file_cannot_be_written(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(ConfigError, match="cannot write the config"):
        PruningConfig.single(11).save_pretrained(tmp_path / "x")


def test_push_to_hub_uploads_the_config_and_nothing_else(monkeypatch):
    seen = {}

    class Api:
        def create_repo(self, repo_id, **options):
            seen["repo"] = (repo_id, options)

        def upload_folder(self, *, repo_id, folder_path):
            seen["files"] = sorted(os.listdir(folder_path))
            return SimpleNamespace(commit_url=f"commit of {repo_id}")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert PruningConfig.single(11).push_to_hub("me/x", private=True) == "commit of me/x"
    assert seen == {
        "repo": ("me/x", {"private": True, "exist_ok": True}),
        "files": [CONFIG_FILE],
    }
