"""Ratio budgets where every image has its own number of visual tokens."""

import json

import numpy as np
import pytest
from PIL import Image

from resprune import NounExtractor, PruningConfig, attach, backbones
from resprune.alpha import PREDICTOR_FILE, AlphaPredictor
from resprune.files import read_json
from resprune.selection import PromptReader
from resprune.testing.tiny import tiny_qwen
from tuner import tasks
from tuner.cache import Memo, VisualCache
from tuner.evaluate import Engine, Kept, Setting
from tuner.results import Results
from tuner.run import run_study
from tuner.study import study_from_dict

SIZES = [(56, 56), (112, 56), (84, 84), (140, 112), (56, 168), (112, 112)]
RATIOS = [0.5, 0.2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A jsonl task whose images differ in size; splits without an image in common."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, times in (("tune", 1), ("fit", 4), ("report", 1)):
        lines = []
        for i, (width, height) in enumerate(SIZES * times):
            name = f"{split}-{i}.png"
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)
            lines.append(json.dumps({"image": name, "question": f"is {i} red?", "answer": "a"}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def backbone():
    model, processor = tiny_qwen("qwen2_5_vl")
    return backbones.for_model(model.eval(), processor)


@pytest.fixture(scope="module")
def engine(folder, backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("engine")
    task = tasks.get("jsonl", folder=str(folder))
    return Engine(
        task,
        task.samples("tune", None),
        VisualCache(path, backbone, "k", backbone.seed_signals),
        Memo(path / "outcomes.jsonl", "k"),
        PromptReader(backbone, NounExtractor()),
        ratios={8: 0.5, 3: 0.2},
    )


def sizes(kept):
    return (kept.indices >= 0).sum(axis=1).tolist()


def test_every_way_to_choose_keeps_the_share_of_each_image(engine):
    lengths = sizes(engine.everything())
    assert len(set(lengths)) > 2
    setting = Setting(0.5, "l2_norm")
    for budget, ratio in ((8, 0.5), (3, 0.2)):
        wanted = [max(1, round(ratio * length)) for length in lengths]
        for kept in (
            engine.kept(setting, budget),
            engine.random(budget, 0),
            engine.most_relevant(setting, budget),
            *engine.grid_kept(setting, [0.0, 2.0], [budget]),
        ):
            assert sizes(kept) == wanted
    counted = engine.kept(setting, 5)  # not one of the ratios: a count
    assert sizes(counted) == [min(5, length) for length in lengths]


def test_one_order_serves_a_count_between_two_ratios(engine):
    setting = Setting(0.5, "l2_norm")
    one = engine.grid_kept(setting, [0.5], [8, 5, 3])
    for kept, budget in zip(one, (8, 5, 3), strict=True):
        alone = engine.kept(setting, budget)
        assert [row[row >= 0].tolist() for row in kept.indices] == [
            row[row >= 0].tolist() for row in alone.indices
        ]


def test_batches_of_near_counts_score_as_one_by_one(engine, backbone, monkeypatch):
    lengths = sizes(engine.everything())
    kept = Kept(np.array([[*range(10), 10 if n > 10 and i % 2 == 0 else -1]
                          for i, n in enumerate(lengths)]))  # fmt: skip
    assert set(sizes(kept)) == {10, 11}
    calls = []
    real = backbone.model.generate

    def generate(**kwargs):
        calls.append(len(kwargs["input_ids"]))
        return real(**kwargs)

    monkeypatch.setattr(backbone.model, "generate", generate)
    together = engine.likelihoods([kept])
    assert calls == [len(SIZES)]
    fresh = Engine(
        engine.task,
        engine.samples,
        engine._visual,
        Memo(engine._visual._folder / "other.jsonl", "k"),
        engine._reader,
        batch_size=1,
    )
    np.testing.assert_allclose(fresh.likelihoods([kept]), together, atol=1e-4)


@pytest.fixture(scope="module")
def run_dir(folder, backbone, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    study = study_from_dict(
        {
            "study": {"name": "ratios", "trials": 4},
            "backbone": {"model": "nano-llava"},  # what is loaded is replaced below
            "task": {
                "name": "jsonl",
                "folder": str(folder),
                "max_new_tokens": 3,
                "tune": {"split": "tune", "samples": len(SIZES)},
                "fit": {"split": "fit", "samples": 4 * len(SIZES)},
                "report": {"split": "report", "samples": len(SIZES)},
            },
            "search": {"budget": RATIOS, "seed_strategy": ["l2_norm"]},
            "alpha": {"grid": [0.0, 1.0]},
            "report": {"examples": 1, "resamples": 100},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuner.run.load_backbone", lambda section: backbone)
        run_study(study, runs)
    return runs / "ratios"


def test_a_study_of_ratios_exports_ratios(run_dir, backbone, engine, folder):
    found = Results.load(run_dir)
    assert [c.ratio for c in found.chosen] == RATIOS
    lengths = sizes(engine.everything())  # the report split has images of the same sizes
    for chosen in found.chosen:
        kept = [max(1, round(chosen.ratio * length)) for length in lengths]
        assert chosen.budget == round(sum(kept) / len(kept))
    assert any("share of each image's own visual tokens" in note for note in found.notes)
    assert [row.budget for row in found.adaptive] == [c.budget for c in found.chosen]
    data = read_json(run_dir / PREDICTOR_FILE)
    assert AlphaPredictor.from_dict(data).budgets == tuple(RATIOS)
    config = PruningConfig.from_pretrained(run_dir / "config")
    assert sorted((entry.budget for entry in config.budgets), reverse=True) == RATIOS
    assert "0.5 of each image" in (run_dir / "config" / "README.md").read_text()
    task = tasks.get("jsonl", folder=str(folder))
    with attach(backbone.model, backbone.processor, config) as handle:
        for sample, length in zip(task.samples("report", None), lengths, strict=True):
            inputs = backbone.processor(
                images=[sample.load_image()],
                text=backbone.chat_prompt(sample.prompt),
                return_tensors="pt",
            )
            backbone.model.generate(**inputs, budget=0.5, max_new_tokens=1, do_sample=False)
            assert [len(kept) for kept in handle.last.kept] == [max(1, round(0.5 * length))]
