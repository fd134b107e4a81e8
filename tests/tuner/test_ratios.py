"""A study of ratios where every image has its own number of visual tokens."""

import json

import numpy as np
import pytest
from PIL import Image

from resprune import PruningConfig, attach, backbones
from resprune.alpha import PREDICTOR_FILE, AlphaPredictor
from resprune.budget import Ratio
from resprune.files import read_json
from resprune.setting import Adaptive
from resprune.testing.tiny import tiny_qwen
from tuner import tasks
from tuner.results.schema import Results
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
def run_dir(folder, backbone, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    study = study_from_dict(
        {
            "study": {"name": "ratios", "trials": 4},
            "backbone": {"model": "nano-llava"},  # what is loaded is replaced below
            "task": {
                "name": "table",
                "data": str(folder),
                "max_new_tokens": 3,
                "tune": {"split": "tune", "samples": len(SIZES)},
                "fit": {"split": "fit", "samples": 4 * len(SIZES)},
                "report": {"split": "report", "samples": len(SIZES)},
            },
            "search": {"budget": RATIOS, "seed_strategy": ["l2_norm"]},
            "alpha": {"grid": [0.0, 1.0]},
            "report": {"examples": 1},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuner.stages.opened.load_backbone", lambda section: backbone)
        run_study(study, runs)
    return runs / "ratios"


def test_a_study_of_ratios_exports_ratios(run_dir, backbone, folder):
    found = Results.load(run_dir)
    assert [c.setting.budget for c in found.chosen] == [Ratio(ratio=r) for r in RATIOS]
    samples = tasks.get("table", data=str(folder)).samples("report", None)
    inputs = [
        backbone.processor(
            images=[sample.load_image()],
            text=backbone.chat_prompt(sample.prompt),
            return_tensors="pt",
        )
        for sample in samples
    ]
    lengths = [int((each["input_ids"] == backbone.image_token_id).sum()) for each in inputs]
    assert len(set(lengths)) > 2
    for chosen in found.chosen:
        # the tune split has images of the same sizes
        kept = [max(1, round(chosen.setting.budget.ratio * length)) for length in lengths]
        assert chosen.tokens == round(sum(kept) / len(kept))
    assert any("share of each image's own visual tokens" in note for note in found.notes)
    adopted = [c.tokens for c in found.chosen if isinstance(c.policy, Adaptive)]
    assert [row.tokens for row in found.adaptive] == adopted
    data = read_json(run_dir / PREDICTOR_FILE)
    assert AlphaPredictor.from_dict(data).budgets == tuple(Ratio(ratio=r) for r in RATIOS)
    config = PruningConfig.from_pretrained(run_dir / "config")
    assert sorted((policy.budget.ratio for policy in config.table), reverse=True) == RATIOS
    assert "0.5 of each image" in (run_dir / "config" / "README.md").read_text()
    with attach(backbone.model, backbone.processor, config) as handle:
        for each, length in zip(inputs, lengths, strict=True):
            backbone.model.generate(**each, budget=0.5, max_new_tokens=1, do_sample=False)
            assert [len(kept) for kept in handle.last.kept] == [max(1, round(0.5 * length))]
