"""Export: the directory reads back as the config, and nothing is ever half-written."""

import json
import os
from pathlib import Path

import pytest

from resprune.budget import Count
from resprune.config import PruningConfig
from resprune.errors import ConfigError, ResPruneError, StudyError
from resprune.setting import Adaptive, Setting
from tuner.output.export import build_config, export_run
from tuner.results.schema import RESULTS_FILE, Results

FILES = ["README.md", "alpha_predictor.json", "pruning_config.json"]


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_the_directory_reads_back_as_the_chosen_configs(run_dir, results):
    folder = export_run(run_dir)
    assert folder == run_dir / "config"
    assert names(folder) == FILES
    config = PruningConfig.from_pretrained(folder)
    assert list(config.table) == [chosen.policy for chosen in results.chosen]
    for chosen in results.chosen:
        assert config.policy(chosen.policy.budget) == chosen.policy
    assert [type(policy) for policy in config.table] == [Setting, Adaptive, Adaptive]
    assert config.default == results.recommended
    assert config.backbone is not None
    assert config.backbone.model_dump() == results.model.model_dump()
    assert (config.nouns.pipeline, config.nouns.version) == ("resprune_en_nouns", "0.1.0")
    assert config.predictor is not None


def test_other_budgets_may_have_other_methods_and_options(results_data):
    several = {22: ("divprune", {}), 6: ("resprune", {"alpha": 2.0, "pooling": "mean"})}
    for chosen in results_data["chosen"]:
        method, options = several.get(chosen["tokens"], ("resprune", {"alpha": 0.25}))
        setting = Setting.of(method, chosen["tokens"], **options)
        chosen["policy"] = chosen["setting"] = setting.model_dump(mode="json")
    config = build_config(Results.model_validate(results_data), None, "run")
    assert [policy.method for policy in config.table] == ["divprune", "resprune", "resprune"]
    assert [config.policy(n).option("pooling") for n in (22, 11, 6)] == [None, "max", "mean"]
    assert config.policy().budget == Count(count=11)


def test_exporting_again_replaces_the_old_export(run_dir):
    export_run(run_dir)
    (run_dir / "config" / "README.md").write_text("edited")
    before = names(run_dir)
    export_run(run_dir)
    assert "edited" not in (run_dir / "config" / "README.md").read_text()
    assert names(run_dir) == before


def test_it_can_be_written_elsewhere(run_dir, tmp_path):
    target = tmp_path / "a" / "b"
    assert export_run(run_dir, target) == target
    assert names(target) == FILES
    assert not (run_dir / "config").exists()


def test_a_fixed_setting_needs_no_predictor(run_dir, results_data):
    for chosen in results_data["chosen"]:
        chosen["policy"] = chosen["setting"]
    Results.model_validate(results_data).save(run_dir)
    (run_dir / "alpha_predictor.json").unlink()
    assert names(export_run(run_dir)) == ["README.md", "pruning_config.json"]


# -- refusals ----------------------------------------------------------------------------


def test_a_folder_without_results_says_how_to_make_them(tmp_path):
    with pytest.raises(StudyError, match="resprune-tune run"):
        export_run(tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 1000, -3])
def test_a_torn_results_file_is_refused(run_dir, keep):
    path = run_dir / RESULTS_FILE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ResPruneError, match=RESULTS_FILE):
        export_run(run_dir)
    assert not (run_dir / "config").exists()


def test_results_of_another_shape_are_refused(run_dir, results_data):
    results_data["chosen"][1]["tune_score"] = "good"
    (run_dir / RESULTS_FILE).write_text(json.dumps(results_data))
    with pytest.raises(StudyError, match=r"results\.json: chosen\[1\]\.tune_score: .* not 'good'"):
        export_run(run_dir)


def test_a_missing_predictor_is_refused(run_dir):
    (run_dir / "alpha_predictor.json").unlink()
    with pytest.raises(StudyError, match=r"alpha_predictor\.json: not found"):
        export_run(run_dir)


def test_a_predictor_without_the_budget_is_refused(run_dir):
    path = run_dir / "alpha_predictor.json"
    data = json.loads(path.read_text())
    data["budgets"] = data["budgets"][:1]
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="6"):
        export_run(run_dir)
    assert not (run_dir / "config").exists()


def test_a_recommended_budget_that_was_not_chosen_is_refused(results_data):
    results_data["recommended"] = {"count": 99}
    with pytest.raises(ConfigError, match=r"run: default 99 .*22, 11, 6"):
        build_config(Results.model_validate(results_data), None, "run")


def test_a_folder_of_somebody_else_is_not_replaced(run_dir, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_text("weights")
    with pytest.raises(StudyError, match=r"model\.safetensors"):
        export_run(run_dir, model)
    assert names(model) == ["model.safetensors"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_not_replaced(run_dir, tmp_path, kind):
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("mine")
    else:
        (tmp_path / "there").mkdir()
        target.symlink_to(tmp_path / "there")
    with pytest.raises(StudyError, match="not a folder"):
        export_run(run_dir, target)
    assert target.is_symlink() or target.read_text() == "mine"


# -- nothing half-written ----------------------------------------------------------------


def fail_on(monkeypatch, owner, name, number):
    """Let the number-th call fail as on a full disk."""
    real, count = getattr(owner, name), iter(range(1, 10**6))

    def call(*args, **options):
        if next(count) == number:
            raise OSError(28, "No space left on device")
        return real(*args, **options)

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        (Path, "write_text", 1),  # the predictor
        (Path, "write_text", 2),  # the config
        (Path, "write_text", 3),  # the card
        (os, "replace", 1),
        (os, "replace", 2),
        (os, "replace", 3),  # the old export out of the way
        (os, "replace", 4),  # the new one into its place
    ],
)
def test_a_failure_leaves_the_old_export(run_dir, monkeypatch, owner, name, number):
    export_run(run_dir)
    (run_dir / "config" / "README.md").write_text("the old one")
    before = {p.name: p.read_bytes() for p in (run_dir / "config").iterdir()}
    around = names(run_dir)
    fail_on(monkeypatch, owner, name, number)
    with pytest.raises(ResPruneError, match="No space left"):
        export_run(run_dir)
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in (run_dir / "config").iterdir()} == before
    assert names(run_dir) == around


def test_a_failure_of_a_first_export_leaves_nothing(run_dir, monkeypatch):
    around = names(run_dir)
    fail_on(monkeypatch, Path, "write_text", 3)
    with pytest.raises(StudyError, match="No space left"):
        export_run(run_dir)
    assert names(run_dir) == around
