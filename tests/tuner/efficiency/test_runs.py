"""What a study, a config and a shape bring to the bench, and what the command does with it."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from resprune.alpha import FEATURE_NAMES, AlphaPredictor
from resprune.config import PruningConfig
from resprune.errors import ConfigError
from resprune.setting import Adaptive, Setting, unpruned
from resprune.testing.tiny import tiny_llava
from tuner import cli
from tuner.efficiency import runs, shapes
from tuner.efficiency.flops import Decoder
from tuner.efficiency.measure import measure
from tuner.efficiency.runs import Plan, bench_config, bench_shape, bench_study, default_settings
from tuner.study import find_study, load_study

FAST = Plan(repeats=6, new_tokens=2, batches=(1,), prompts=2)


def call(capsys, *arguments):
    """Run the command line in this process; (exit code, stdout, stderr)."""
    with pytest.raises(SystemExit) as caught:
        cli.app([str(argument) for argument in arguments])
    out = capsys.readouterr()
    return caught.value.code or 0, out.out, out.err


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model folder, and a config that was made for it."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    model, _ = tiny_llava(folder=folder)
    model.save_pretrained(folder)
    table = (
        Setting.of("resprune", 5, seed_strategy="l2_norm"),
        Setting.of("divprune", 0.25, positions="compact"),
    )
    data = {"backbone": {"family": "llava", "id": str(folder)}, "table": table, "default": 5}
    PruningConfig.from_dict(data).save_pretrained(folder.parent / "config")
    return folder.parent / "config"


@pytest.fixture
def small_shape(monkeypatch):
    """A shape of the real layout and five narrow layers."""
    real = shapes.SHAPES["llava-1.5-7b"]

    def parts():
        config, processor = real.parts()
        narrow = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
        for name, value in narrow.items():
            setattr(config.text_config, name, value)
            setattr(config.vision_config, name, value)
        config.text_config.num_hidden_layers = 5
        config.text_config.num_key_value_heads = 2
        config.text_config.head_dim = 8
        config.vision_config.num_hidden_layers = 3
        return config, processor

    small = replace(real, parts=parts)
    monkeypatch.setitem(shapes.SHAPES, "llava-1.5-7b", small)
    return small


def test_a_study_brings_its_methods_budgets_and_prompts():
    study = load_study(find_study("nano-llava"))
    asked = []
    found = bench_study(study, FAST, progress=lambda *step: asked.append(step))
    whole, *rows = [row.policy for row in found.rows]
    assert whole == unpruned()
    assert [row.method for row in rows] == ["resprune"] * 6
    assert [row.budget for row in rows] == list(study.budgets())
    assert found.rows[0].kept == 196
    assert (found.layers, found.measured_layers, found.extrapolated) == (4, (4,), False)
    assert found.prompt_source == "the tune split of nano-llava"
    assert asked[-1] == (7 * 7, 7 * 7)


def test_methods_and_budgets_may_be_named():
    study = load_study(find_study("nano-llava"))
    found = bench_study(study, FAST, ["divprune", "random"], [11, 0.5])
    named = [(row.policy.method, row.kept) for row in found.rows[1:]]
    assert named == [("divprune", 11), ("divprune", 98), ("random", 11), ("random", 98)]


def test_a_config_brings_its_table(saved):
    found = bench_config(saved, FAST)
    assert [row.kept for row in found.rows] == [16, 5, 4]
    assert found.rows[2].policy.positions == "compact"
    assert [row.kept for row in bench_config(saved, FAST, [0.25]).rows] == [16, 4]
    with pytest.raises(ConfigError, match="is not in the pruning config"):
        bench_config(saved, FAST, [7])


def test_an_adaptive_policy_is_measured_with_its_predictor(llava):
    arms = tuple(
        Setting.of("resprune", 4, alpha=alpha, seed_strategy="l2_norm") for alpha in (0.0, 2.0)
    )
    policy = Adaptive(arms=arms, fallback=0)
    predictor = AlphaPredictor.from_dict(
        {
            "schema_version": 3,
            "forms": None,
            "features": [FEATURE_NAMES[0]],
            "center": [0.0],
            "scale": [1.0],
            "low": [0.0],
            "high": [1.0],
            "arms": [{"alpha": 0.0}, {"alpha": 2.0}],
            "budgets": [
                {"budget": {"count": 4}, "mean_losses": [0.5, 0.2], "strength": 0.0, "model": None}
            ],
        }
    )
    prompts = runs.scene_prompts(llava, 28)
    found = measure(llava, prompts, [policy], repeats=6, max_new_tokens=2, predictor=predictor)
    assert found[policy].error is None
    assert found[policy].kept == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs all layers")
def test_a_shape_is_extrapolated_and_its_counts_are_those_of_the_whole_model(small_shape):
    found = bench_shape("llava-1.5-7b", FAST, ["resprune"], [64])
    assert (found.layers, found.measured_layers, found.extrapolated) == (5, (1, 3), True)
    whole, row = found.rows
    assert (whole.kept, row.kept) == (576, 64)
    real = small_shape.build(None, torch.device("cpu"), torch.float32)
    backbone = runs.backbones.for_model(real.model, real.processor)
    deep = measure(
        backbone,
        runs.scene_prompts(backbone, 336)[:2],
        [row.policy],
        repeats=6,
        max_new_tokens=2,
    )
    for shallow in (whole, row):
        full = deep[shallow.policy]
        for name in ("prefill_flops", "kv_bytes", "rows_per_layer"):
            assert getattr(shallow, name) == getattr(full, name), name
    assert found.parameters == Decoder.of(real.model.config).parameters


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs all layers")
def test_what_a_plus_b_does_not_describe_is_refused_by_name(small_shape):
    found = bench_shape("llava-1.5-7b", FAST, ["fastv", "uniform"], [4])
    whole, fastv, uniform = found.rows
    assert "a + L b does not describe" in fastv.error
    assert fastv.first_token is None
    # but what it runs is counted: one layer of five on all tokens, the others on those that stay
    assert found.layers == 5
    for name in ("kv_bytes", "prefill_flops"):
        every, few = getattr(whole, name), getattr(uniform, name)
        assert getattr(fastv, name) == pytest.approx((every + 4 * few) / 5, abs=1)
    assert fastv.kept == 4


def test_the_unpruned_model_has_no_row_of_its_own_among_the_methods(llava):
    named = default_settings(llava, ["unpruned", "random"], [4, 2])
    assert named == [Setting.of("random", 4), Setting.of("random", 2)]


def test_the_papers_setting_is_replaced_where_the_tower_has_no_cls():
    backbone = runs.backbones.for_model(*tiny_llava(tower="siglip"))
    (setting,) = default_settings(backbone, ["resprune"], [4])
    assert (setting.option("alpha"), setting.option("seed_strategy")) == (0.75, "l2_norm")


@pytest.mark.parametrize("name", list(shapes.SHAPES))
def test_the_processor_of_a_shape_gives_as_many_tokens_as_its_budgets_are_for(name):
    shape = shapes.SHAPES[name]
    config, processor = shape.parts()
    image = Image.new("RGB", (shape.edge, shape.edge))
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
    text = processor.apply_chat_template([turn], add_generation_prompt=True)
    ids = processor(images=[[image]], text=[text], return_tensors="pt")["input_ids"]
    found = int((ids == config.image_token_id).sum())
    # LLaVA-NeXT has a newline behind each of 48 rows; Qwen merges 2 x 2 patches of 14 pixels
    tokens = {"llava-next-7b": 2880 + 48, "qwen2.5-vl-7b": 36**2, "qwen2.5-vl-3b": 36**2}
    assert found == tokens.get(name, 576)


def test_the_command_prints_json_alone_and_writes_both_files(saved, tmp_path, capsys):
    out = tmp_path / "out"
    code, text, err = call(
        capsys, "bench", saved, "--repeats", 6, "--new-tokens", 2, "--batch", "1,2", "--json",
        "--out", out, "--prompts", 2,
    )  # fmt: skip
    assert code == 0, err
    data = json.loads(text)
    assert json.loads((out / "efficiency.json").read_text()) == data
    assert [row["kept"] for row in data["rows"]] == [16, 5, 4]
    assert list(data["rows"][1]["tokens_per_second"]) == ["1", "2"]
    assert "first token ms" in (out / "efficiency.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a study or a config folder, or --shape"),
        (["nano-llava", "--shape", "llava-1.5-7b"], "one of them"),
        (["--shape", "llava-1.5-7"], "llava-1.5-7b"),
        (["nano-lava"], "nano-llava"),
        (["nano-llava", "--method", "resprun"], "resprune"),
        (["nano-llava", "--batch", "1;8"], "'1;8' is no list of counts"),
        (["nano-llava", "--repeats", "3"], "give 6 or more"),
        (["nano-llava", "--model", "x"], "a study and a shape name their own"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_fix(capsys, arguments, said):
    code, out, err = call(capsys, "bench", *arguments)
    assert code == 2
    assert said in err
    assert not out
