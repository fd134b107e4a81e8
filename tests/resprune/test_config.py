"""The pruning config: what is accepted, what every kind of wrong file says, and round trips."""

import json
import os
import re
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resprune import Setting
from resprune import config as module
from resprune.alpha import FEATURE_NAMES, AlphaPredictor
from resprune.budget import Count, Energy, Ratio
from resprune.config import CONFIG_FILE, SCHEMA_VERSION, PruningConfig
from resprune.errors import ConfigError, ResPruneError
from resprune.files import MAX_FILE_BYTES, read_json
from resprune.options import ALPHA_MAX
from resprune.setting import PAPER_DEFAULTS, PREDICTOR_FILE, Adaptive

SCHEMA1 = Path(__file__).parent / "schema1"  # written by the library before schema version 2


def row(budget, **options):
    return {"method": "resprune", "options": options, "budget": budget}


GOOD = {
    "schema_version": 2,
    "library_version": "0.1.0",
    "backbone": {"family": "llava", "id": "nano-llava", "width": 128, "visual_tokens": 196},
    "nouns": {"pipeline": "resprune_en_nouns", "version": "0.1.0", "stop_nouns": ["image"]},
    "default": {"count": 11},
    "table": [
        row({"count": 11}, alpha=0.25, seed_strategy="cls_attention"),
        {**row({"count": 6}, alpha=1, relevance={"pooling": "mean"}), "positions": "compact"},
        {"method": "divprune", "budget": {"ratio": 0.5}},
    ],
}
LISTED = "11, 6, 0.5"


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
    assert config.policy().budget == Count(count=11)
    assert config.policy(6).option("alpha") == 1.0
    assert isinstance(config.policy(6).option("alpha"), float)
    assert (config.policy(6).option("pooling"), config.policy(6).positions) == ("mean", "compact")
    assert config.policy(11).option("pooling") == "max"


def test_a_written_file_says_everything(tmp_path):
    """Defaults stand in the file, so that they stay when a later library changes them."""
    PruningConfig.from_dict(GOOD).save_pretrained(tmp_path)
    assert json.loads((tmp_path / CONFIG_FILE).read_text()) == {
        **GOOD,
        "library_version": module.__version__,
        "backbone": {**GOOD["backbone"], "revision": None, "text_model": None},
        "nouns": {**GOOD["nouns"], "compounds": False},
        "untested": False,
        "table": [
            {
                "method": "resprune",
                "options": {
                    "alpha": 0.25,
                    "seed_strategy": "cls_attention",
                    "relevance": {"pooling": "max", "normalization": "minmax", "eps": 0.01},
                },
                "budget": {"count": 11},
                "positions": "keep",
            },
            {
                "method": "resprune",
                "options": {
                    "alpha": 1.0,
                    "seed_strategy": "l2_norm",
                    "relevance": {"pooling": "mean", "normalization": "minmax", "eps": 0.01},
                },
                "budget": {"count": 6},
                "positions": "compact",
            },
            {
                "method": "divprune",
                "options": {},
                "budget": {"ratio": 0.5},
                "positions": "keep",
            },
        ],
        "certificate": None,
    }


def test_the_file_of_the_reference_page_loads():
    page = Path(__file__).parents[2] / "docs/reference/config.md"
    [example] = re.findall(r"```json\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    config = PruningConfig.from_dict(json.loads(example))
    assert config.default == Count(count=43)
    assert [policy.method for policy in config.table] == ["resprune", "divprune"]
    assert json.loads(example).keys() == config.to_dict().keys()


budgets = st.integers(1, 5000) | st.floats(0, 1, exclude_min=True)


@given(budgets, st.floats(0, ALPHA_MAX))
def test_json_keeps_counts_counts_and_ratios_ratios(budget, alpha):
    config = PruningConfig.single(budget, alpha=alpha)
    again = PruningConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    kind = Count(count=budget) if isinstance(budget, int) else Ratio(ratio=budget)
    assert again.default == kind
    assert again.policy(budget).option("alpha") == alpha


def test_a_tool_that_turns_1_point_0_into_1_changes_no_ratio():
    text = json.dumps(PruningConfig.single(1.0).to_dict()).replace("1.0}", "1}")
    assert '"ratio": 1}' in text
    assert PruningConfig.from_dict(json.loads(text)).default == Ratio(ratio=1.0)


def test_a_count_of_1_and_a_ratio_of_1_are_two_budgets():
    rows = [row(1, alpha=0.5), row(1.0, alpha=2.0)]
    config = PruningConfig.from_dict({"table": rows, "default": 1.0})
    config = PruningConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert config.policy(1).option("alpha") == 0.5
    assert config.policy(1.0).option("alpha") == 2.0
    assert config.policy().option("alpha") == 2.0


def test_an_energy_budget_is_a_row_like_any_other():
    budget = {"energy": 0.05, "most": 98, "least": 4}
    config = PruningConfig.from_dict({**GOOD, "table": [*GOOD["table"], row(budget)]})
    again = PruningConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    for asked in (Energy(**budget), budget):
        assert again.policy(asked).budget == Energy(**budget)
    with pytest.raises(ConfigError, match=rf"lists {LISTED}, energy 0\.05 \(4 to 98\)"):
        again.policy(98)


def test_a_budget_counted_by_numpy_is_found():
    assert PruningConfig.single(11).policy(np.int64(11)).budget == Count(count=11)


def test_single_takes_the_methods_own_options():
    config = PruningConfig.single(
        7, alpha=2, pooling="mean", positions="compact", nouns={"compounds": True}, untested=True
    )
    assert config.table == (
        Setting.of("resprune", 7, alpha=2.0, pooling="mean", positions="compact"),
    )
    assert config.nouns.compounds
    assert config.untested
    assert PruningConfig.single(7, method="divprune").policy().method == "divprune"
    for options, message in (
        ({"alfa": 1}, "'resprune' has no option 'alfa'. Did you mean 'alpha'?"),
        ({"method": "divprune", "alpha": 1}, "'divprune' has no option 'alpha'"),
        ({"alpha": 17}, "alpha"),
        ({"method": "resprun"}, "unknown method 'resprun'"),
        ({"positions": "kept"}, "positions: unknown value 'kept'. Did you mean 'keep'?"),
        ({"backbone": {"famly": "llava"}}, "backbone"),
    ):
        with pytest.raises(ResPruneError) as caught:
            PruningConfig.single(7, **options)
        assert message in str(caught.value)


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
    assert (known.policy().option("alpha"), known.untested) == (0.75, False)
    assert known.policy().option("seed_strategy") == "cls_attention"
    other = PruningConfig.paper_default("somebody_elses", 0.25)
    assert other.policy() == Setting.of("resprune", 0.25, alpha=0.5, seed_strategy="l2_norm")
    assert other.untested
    changed_ = PruningConfig.paper_default("llava", 64, alpha=1.0, positions="compact")
    assert changed_.policy().option("alpha") == 1.0
    assert changed_.policy().option("seed_strategy") == "cls_attention"
    assert changed_.policy().positions == "compact"


# -- wrong values ------------------------------------------------------------------------

OPTIONS = ("table", 0, "options")
WRONG = {
    # path, value, what the message must name
    "alpha below": ((*OPTIONS, "alpha"), -0.1, ["table[0]", "alpha", "-0.1", "equal to 0"]),
    "alpha above": (("table", 1, "options", "alpha"), 16.5, ["table[1]", "alpha", "16.5", "16,"]),
    "alpha a word": ((*OPTIONS, "alpha"), "adaptive", ["table[0]", "alpha", "'adaptive'"]),
    "alpha quoted": ((*OPTIONS, "alpha"), "0.5", ["table[0]", "alpha", "'0.5'"]),
    "alpha a bool": ((*OPTIONS, "alpha"), True, ["table[0]", "alpha", "True"]),
    "alpha null": ((*OPTIONS, "alpha"), None, ["table[0]", "alpha", "None"]),
    "alpha inf": ((*OPTIONS, "alpha"), float("inf"), ["table[0]", "alpha", "inf"]),
    "alpha nan": ((*OPTIONS, "alpha"), float("nan"), ["table[0]", "alpha", "nan"]),
    "budget 0": (("table", 0, "budget"), 0, ["table[0]: budget", "0", "1 or more"]),
    "count 0": (("table", 0, "budget"), {"count": 0}, ["table[0]: budget", "count", "0"]),
    "budget negative": (("table", 0, "budget"), -3, ["table[0]: budget", "-3"]),
    "budget 0.0": (("table", 0, "budget"), 0.0, ["table[0]: budget", "0.0", "over 0"]),
    "budget 1.5": (("table", 0, "budget"), 1.5, ["table[0]: budget", "1.5", "up to 1.0"]),
    "ratio 1.5": (("table", 0, "budget"), {"ratio": 1.5}, ["budget: ratio", "1.5", "equal to 1"]),
    "budget a bool": (("table", 0, "budget"), True, ["table[0]: budget", "True"]),
    "budget quoted": (("table", 0, "budget"), "11", ["table[0]: budget", "'11'"]),
    "budget nan": (("table", 0, "budget"), float("nan"), ["table[0]: budget", "nan"]),
    "budget kind": (("table", 0, "budget"), {"cont": 3}, ["'cont'", "mean 'count'"]),
    "energy 1": (("table", 0, "budget"), {"energy": 1.0, "most": 9}, ["energy", "less than 1"]),
    "no most": (("table", 0, "budget"), {"energy": 0.1}, ["'most' is missing"]),
    "least over most": (
        ("table", 0, "budget"),
        {"energy": 0.1, "most": 3, "least": 4},
        ["least 4 is over most 3"],
    ),
    "budget over T": (("table", 1, "budget"), 197, ["197", "196"]),
    "budget twice": (("table", 0, "budget"), 6, ["twice", "6, 6, 0.5"]),
    "default bool": (("default",), True, ["default", "True"]),
    "default elsewhere": (("default",), 12, ["default 12", LISTED]),
    "no rows": (("table",), [], ["table", "at least 1"]),
    "rows a dict": (("table",), {"11": 0.5}, ["table", "{'11': 0.5}"]),
    "row a number": (("table", 0), 11, ["table[0]", "11"]),
    "no method": (("table", 0), {"budget": 3}, ["table[0]: key 'method' is missing"]),
    "no budget": (("table", 0), {"method": "resprune"}, ["table[0]: key 'budget' is missing"]),
    "seed strategy": (
        (*OPTIONS, "seed_strategy"),
        "cls_atention",
        ["table[0]", "seed_strategy", "'cls_atention'", "mean 'cls_attention'", "l2_norm"],
    ),
    "pooling": ((*OPTIONS, "relevance"), {"pooling": "maximum"}, ["'maximum'", "mean, pooled"]),
    "normalization": ((*OPTIONS, "relevance"), {"normalization": 3}, ["3", "minmax"]),
    "eps zero": ((*OPTIONS, "relevance"), {"eps": 0.0}, ["relevance.eps", "greater than 0"]),
    "eps quoted": ((*OPTIONS, "relevance"), {"eps": "0.01"}, ["eps", "number", "'0.01'"]),
    "positions": (("table", 0, "positions"), "kept", ["table[0]: positions", "mean 'keep'"]),
    "method": (
        ("table", 0, "method"),
        "resprun",
        ["table[0]", "method 'resprun'", "mean 'resprune'", "'resprune.methods'", "installed"],
    ),
    "method number": (("table", 0, "method"), 7, ["method", "string", "7"]),
    "another's option": (
        ("table", 2, "options"),
        {"alpha": 0.5},
        ["table[2]: options", "unknown key 'alpha'"],
    ),
    "width quoted": (("backbone", "width"), "128", ["backbone.width", "'128'"]),
    "width bool": (("backbone", "width"), True, ["backbone.width", "True"]),
    "no family": (("backbone",), {"id": "x"}, ["backbone.family", "missing"]),
    "compounds": (("nouns", "compounds"), "yes", ["nouns.compounds", "'yes'"]),
    "stop nouns": (("nouns", "stop_nouns"), "image", ["nouns.stop_nouns", "'image'"]),
    "schema newer": (("schema_version",), SCHEMA_VERSION + 1, ["schema_version 3", "upgrade"]),
    "schema zero": (("schema_version",), 0, ["schema_version", "0"]),
    "schema quoted": (("schema_version",), "1", ["schema_version", "'1'"]),
    "unknown key": (("defalt",), 11, ["unknown key 'defalt'", "mean 'default'"]),
    "of schema 1": (("pooling",), "max", ["unknown key 'pooling'"]),
    "unknown in a row": (("table", 0, "positons"), 1, ["table[0]", "mean 'positions'"]),
    "unknown option": ((*OPTIONS, "alfa"), 1, ["table[0]: options", "'alfa'", "mean 'alpha'"]),
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
    assert all(line.strip() for line in message.splitlines())  # a line a wrong key
    assert len(message) < 500
    for part in expected:
        assert part in message


def test_a_long_wrong_value_is_cut_short():
    with pytest.raises(ConfigError) as caught:
        PruningConfig.from_dict(changed((*OPTIONS, "seed_strategy"), "x" * 10_000))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("missing", ["table", "default"])
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
        PruningConfig.from_dict(GOOD).policy(budget)


def test_a_config_does_not_change():
    config = PruningConfig.from_dict(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        config.untested = True


# -- other versions ----------------------------------------------------------------------


def newer(data):
    return {**data, "library_version": "99.0.0"}


def test_unknown_keys_of_a_newer_library_warn_wherever_they_are():
    data = newer(changed((*OPTIONS, "warmth"), 3))
    data["colour"] = {"a": 1}
    data["nouns"]["accent"] = "x"
    data["default"]["spare"] = 2
    data["table"][0]["budget"]["spare"] = 2
    data["table"][1]["options"]["relevance"]["taste"] = 2
    data["table"][2]["layers"] = [3]
    arm = {**row({"count": 7}, alpha=1.0), "layers": [3]}
    arms = [arm, {**arm, "options": {"alpha": 2.0, "warmth": 3}}]
    data["table"].append({"arms": arms, "fallback": 0, "mood": 1})
    predictor = AlphaPredictor.from_dict(
        {**predictor_data(7), "alphas": [1.0, 2.0]}, where="predictor"
    )
    before = deepcopy(data)
    with pytest.warns(UserWarning, match="newer") as caught:
        config = PruningConfig.from_dict(data, predictor=predictor, where="there")
    (warning,) = caught
    assert warning.filename == __file__
    said = str(warning.message)
    assert said.startswith("there: written by resprune 99.0.0, newer than")
    assert set(said.partition("unknown keys ")[2].split(", ")) == {
        "colour",
        "nouns.accent",
        "default.spare",
        "table[0].options.warmth",
        "table[0].budget.spare",
        "table[1].options.relevance.taste",
        "table[2].layers",
        "table[3].arms[0].layers",
        "table[3].arms[1].layers",
        "table[3].arms[1].options.warmth",
        "table[3].mood",
    }
    assert config.table[:3] == PruningConfig.from_dict(GOOD).table
    assert isinstance(config.table[3], Adaptive)
    assert data == before  # the caller's data is left alone


@pytest.mark.filterwarnings("ignore:.*newer")
def test_a_wrong_value_of_a_newer_library_is_still_an_error():
    data = newer(changed((*OPTIONS, "seed_strategy"), "softmax"))
    data["colour"] = 1
    with pytest.raises(ConfigError, match=r"seed_strategy.*softmax.*99\.0\.0"):
        PruningConfig.from_dict(data)


def test_a_method_of_a_newer_library_is_an_error_that_says_so():
    data = newer(changed(("table", 2, "method"), "clairvoyant"))
    with pytest.raises(ConfigError, match=r"table\[2\].*'clairvoyant'.*written by resprune 99"):
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
        (json.dumps(changed(("default",), float("nan"))), "NaN is not a JSON number"),
        (json.dumps(changed(("default",), float("-inf"))), "-Infinity is not a JSON number"),
        ('{"table": [], "table": []}', "'table' is given twice"),
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
    assert PruningConfig.from_pretrained(tmp_path).default == Count(count=11)


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
    assert PruningConfig.from_pretrained(tmp_path / "link").default == Count(count=11)
    assert PruningConfig.from_pretrained(str(tmp_path / "link")).default == Count(count=11)


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


@pytest.fixture
def asked_of_the_hub(tmp_path, monkeypatch):
    """What is asked of a hub that gives, for each call, the one file that is named."""
    asked = []
    there = tmp_path / "there"
    snapshot = tmp_path / "0123abc"
    snapshot.mkdir()

    def download(name, *, revision, allow_patterns):
        asked.append((name, revision, allow_patterns))
        for file in allow_patterns:
            (snapshot / file).write_bytes((there / file).read_bytes())
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    return there, asked


def test_a_hub_id_reads_only_the_config_file(asked_of_the_hub):
    there, asked = asked_of_the_hub
    write(there, GOOD)
    config = PruningConfig.from_pretrained("user/name", revision="abc")
    assert config.default == Count(count=11)
    assert asked == [("user/name", "abc", [CONFIG_FILE])]


def test_a_hub_id_reads_the_predictor_of_the_same_commit(asked_of_the_hub):
    there, asked = asked_of_the_hub
    write(there, adaptive(predictor="mine.json"))
    write(there, predictor_data(11), "mine.json")
    assert PruningConfig.from_pretrained("user/name").predictor is not None
    assert asked == [("user/name", None, [CONFIG_FILE]), ("user/name", "0123abc", ["mine.json"])]


def test_a_hub_that_refuses_is_said_in_one_line(tmp_path, monkeypatch):
    def download(name, **options):
        raise RuntimeError("401 for url\nmore")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^user/name: no such folder.*401 for url\)$"):
        PruningConfig.from_pretrained("user/name")


# -- adaptive policies -------------------------------------------------------------------


def predictor_data(*budgets):
    """Return an alpha_predictor.json that gives every prompt alpha 0.5."""
    rows = [
        {"budget": b, "mean_losses": [0.3, 0.2], "strength": 0.0, "model": None} for b in budgets
    ]
    ones, zeros = [1.0], [0.0]
    numbers = {"center": zeros, "scale": ones, "low": zeros, "high": ones, "alphas": [0.0, 0.5]}
    return {"schema_version": 1, "features": [FEATURE_NAMES[0]], **numbers, "budgets": rows}


def adaptive(alphas=(0.0, 0.5), **fields):
    """Return GOOD with an adaptive policy at budget 11."""
    arms = [row({"count": 11}, alpha=alpha) for alpha in alphas]
    return changed(("table", 0), {"arms": arms, "fallback": 1, **fields})


def test_an_adaptive_policy_brings_its_predictor(tmp_path):
    write(tmp_path / "a", adaptive())
    write(tmp_path / "a", predictor_data(11), PREDICTOR_FILE)
    config = PruningConfig.from_pretrained(tmp_path / "a")
    config.save_pretrained(tmp_path / "b")
    again = PruningConfig.from_pretrained(tmp_path / "b")
    assert again.to_dict() == config.to_dict()
    assert isinstance(again.policy(), Adaptive)
    assert [arm.option("alpha") for arm in again.policy().arms] == [0.0, 0.5]
    assert again.predictor is not None
    assert again.predictor.to_dict() == config.predictor.to_dict()
    PruningConfig.single(11).save_pretrained(tmp_path / "b")
    assert [p.name for p in (tmp_path / "b").iterdir()] == [CONFIG_FILE]


def test_a_predictor_may_have_another_name(tmp_path):
    write(tmp_path / "a", adaptive(predictor="mine.json"))
    write(tmp_path / "a", predictor_data(11), "mine.json")
    PruningConfig.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["mine.json", CONFIG_FILE]
    assert PruningConfig.from_pretrained(tmp_path / "b").predictor is not None


def test_an_adaptive_policy_without_a_predictor_is_refused(tmp_path):
    write(tmp_path, adaptive())
    with pytest.raises(ConfigError, match=r"budget 11 is adaptive.*put alpha_predictor\.json"):
        PruningConfig.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"budget 11 is adaptive"):
        PruningConfig.from_dict(adaptive())


def test_a_predictor_for_other_budgets_is_refused(tmp_path):
    write(tmp_path, adaptive())
    write(tmp_path, predictor_data(6, 22), PREDICTOR_FILE)
    with pytest.raises(ConfigError, match=r"11.*6, 22"):
        PruningConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("alphas", [(0.0, 0.75), (0.5, 0.0), (0.0, 0.5, 1.0)])
def test_a_predictor_of_other_arms_is_refused(tmp_path, alphas):
    write(tmp_path, adaptive(alphas))
    write(tmp_path, predictor_data(11), PREDICTOR_FILE)
    with pytest.raises(ConfigError, match=r"arms at budget 11 are not those of alpha_predictor"):
        PruningConfig.from_pretrained(tmp_path)


def test_a_damaged_predictor_names_its_file(tmp_path):
    write(tmp_path, adaptive())
    write(tmp_path, {**predictor_data(11), "scale": [0.0]}, PREDICTOR_FILE)
    with pytest.raises(ConfigError, match=r"alpha_predictor\.json.*scale"):
        PruningConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("../x.json", "/etc/x.json", "a/b.json", "a\\b.json", "", ".json", "x.pkl", "x.json\n"),
        *(CONFIG_FILE, "config.json"),
    ],
)
def test_a_predictor_stays_in_its_folder_and_is_no_other_file(tmp_path, name):
    write(tmp_path / "a", adaptive(predictor=name))
    write(tmp_path, predictor_data(11), "x.json")
    with pytest.raises(ConfigError, match="predictor") as caught:
        PruningConfig.from_pretrained(tmp_path / "a")
    assert repr(name) in str(caught.value)


def test_wrong_arms_are_refused():
    for change, message in (
        ({"fallback": 2}, "table[0]: fallback 2 is over the 2 arms"),
        ({"arms": adaptive()["table"][0]["arms"][:1]}, "table[0]: arms"),
        ({"arms": [row(11), row(11)]}, "arms lists a setting twice"),
        ({"arms": [row(11), row(12, alpha=1.0)]}, "arms[1] differs from arms[0]"),
        ({"arms": [row(11), row(11, alpha=99)]}, "table[0]: arms[1]: options: alpha"),
        ({"method": "resprune"}, "table[0]: unknown key 'method'"),
    ):
        with pytest.raises(ConfigError) as caught:
            PruningConfig.from_dict(adaptive(**change))
        assert message in str(caught.value)


def test_one_predictor_a_config():
    data = adaptive()
    arms = [row(6, alpha=alpha) for alpha in (0.0, 0.5)]
    data["table"][1] = {"arms": arms, "fallback": 0, "predictor": "other.json"}
    with pytest.raises(ConfigError, match=r"several predictors \(alpha_predictor\.json, other"):
        PruningConfig.from_dict(data)


# -- schema version 1 --------------------------------------------------------------------


def test_an_export_of_schema_1_loads_as_what_it_meant():
    config = PruningConfig.from_pretrained(SCHEMA1)

    def setting(budget, alpha, seed_strategy):
        return Setting.of(
            "resprune",
            budget,
            alpha=alpha,
            seed_strategy=seed_strategy,
            pooling="mean",
            normalization="clip",
            positions="compact",
        )

    grid = (0.0, 0.5, 2.0)
    assert config.table == (
        setting(98, 0.25, "cls_attention"),
        Adaptive(arms=[setting(11, alpha, "l2_norm") for alpha in grid], fallback=1),
        Adaptive(arms=[setting(0.11, alpha, "cls_attention") for alpha in grid], fallback=0),
    )
    assert config.default == Count(count=11)
    assert (config.backbone.id, config.backbone.visual_tokens) == ("nano-llava", 196)
    assert (config.nouns.pipeline, config.nouns.version) == ("resprune_en_nouns", "1.0.0")


def test_an_export_of_schema_1_chooses_the_alphas_it_did(tmp_path):
    """Those that the library of its day chose for the same features."""
    PruningConfig.from_pretrained(SCHEMA1).save_pretrained(tmp_path)
    assert read_json(tmp_path / CONFIG_FILE)["schema_version"] == SCHEMA_VERSION
    features = np.random.default_rng(0).uniform(0, 6, (5, len(FEATURE_NAMES)))
    for folder in (SCHEMA1, tmp_path):
        config = PruningConfig.from_pretrained(folder)
        for budget, alphas in ((11, [0.0, 0.5, 0.0, 2.0, 2.0]), (0.11, [0.0] * 5)):
            policy = config.policy(budget)
            arms = config.predictor.arms_for(features, [""] * len(features), policy.budget)
            assert [policy.arms[arm].option("alpha") for arm in arms] == alphas


def schema1(**fields):
    return {**read_json(SCHEMA1 / CONFIG_FILE), **fields}


def test_options_that_a_method_of_schema_1_did_not_read_are_left_out():
    entries = [{"budget": 11, "alpha": 0.25, "seed_strategy": "cls_attention"}]
    config = PruningConfig.from_dict(schema1(method="divprune", budgets=entries))
    assert config.policy() == Setting.of("divprune", 11, positions="compact")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"pooling": "maximum"}, ["pooling: unknown value 'maximum'"]),
        ({"eps": 0.0}, ["eps", "greater than 0"]),
        ({"colour": 1}, ["unknown key 'colour'"]),
        ({"budgets": [{"budget": 11, "alfa": 1}]}, ["budgets[0]"]),
        ({"budgets": [{"budget": 11, "alpha": 17}]}, ["budgets[0].alpha", "17", "0 to 16"]),
        ({"budgets": [{"budget": 0, "alpha": 1}]}, ["budgets[0].budget", "0", "1 or more"]),
        ({"budgets": [{"budget": 11, "alpha": 1}] * 2}, ["twice"]),
        ({"default_budget": 12}, ["default_budget 12", "98, 11, 0.11"]),
        ({"method": "resprun"}, ["method", "'resprun'"]),
        ({"nouns": {"pipelin": "x"}}, ["'nouns.pipelin'"]),
        ({}, ["budget 11, 0.11 is adaptive", PREDICTOR_FILE]),
    ],
)
def test_a_wrong_value_of_schema_1_is_refused_by_its_own_place(fields, expected):
    data = schema1(**fields)
    if fields and "budgets" not in fields:
        for entry in data["budgets"]:
            entry["alpha"] = 0.5
    with pytest.raises(ConfigError) as caught:
        PruningConfig.from_dict(data, where="x")
    assert str(caught.value).startswith("x: ")
    for part in expected:
        assert part in str(caught.value)


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
