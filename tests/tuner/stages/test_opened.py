"""What only the model can tell of a study: checked before anything is scored."""

import json

import pytest
from PIL import Image

from resprune import backbones
from resprune.errors import ResPruneError, StudyError
from resprune.testing.tiny import tiny_qwen
from tuner.scoring.model import load_backbone
from tuner.stages.opened import OpenedStudy, check_model
from tuner.study import study_from_dict

SPLITS = ("tune", "report")


def study(task=None, **search):
    return study_from_dict(
        {
            "study": {"name": "s"},
            "backbone": {"model": "nano-llava"},
            "task": {
                **(task or {"name": "nano-scenes"}),
                **{name: {"split": name, "samples": 2} for name in SPLITS},
            },
            "search": {"budget": [22, 6], **search},
        }
    )


@pytest.fixture(scope="module")
def nano_llava():
    return load_backbone(study().backbone, weights=False)


@pytest.fixture(scope="module")
def ragged():
    model, processor = tiny_qwen("qwen2_5_vl")
    return backbones.for_model(model.eval(), processor)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"budget": [197]}, "197 is over the 196 visual tokens of this model; give counts from 1"),
        ({"budget": [{"energy": 0.1, "most": 197}]}, "is over the 196 visual tokens"),
        ({"budget": [98, 0.5]}, r"0\.5 is 98 tokens, which 98 already is; keep one"),
        ({"budget": [0.5, 22, 0.501]}, r"0\.501 is 98 tokens, which 0\.5 already is"),
        ({"method": ["resprune", "downsample"]}, "'downsample' is not comparable on this model"),
        ({"seed_strategy": ["l2_norm", "received_attention"]}, "received_attention"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(nano_llava, search, message):
    with pytest.raises(ResPruneError, match=message):
        check_model(study(**search), nano_llava)


@pytest.mark.parametrize(
    "search",
    [
        {"budget": [196, 1, 0.5]},
        {"budget": [22, {"energy": 0.1, "most": 22}, {"energy": 0.2, "most": 22}]},
        {"method": ["resprune", "visionzip", "pool"]},
    ],
)
def test_what_fits_is_not(nano_llava, search):
    check_model(study(**search), nano_llava)


def test_where_t_follows_the_image_counts_may_be_large_and_images_smaller(ragged):
    check_model(
        study(budget=[197, 0.5], method=["resprune", "downsample"], seed_strategy="l2_norm"), ragged
    )
    with pytest.raises(ResPruneError, match="cls_attention"):
        check_model(study(seed_strategy=["cls_attention"]), ragged)


def test_budgets_are_ranked_by_what_they_keep_of_the_tune_split(tmp_path, ragged, monkeypatch):
    """A ratio lies between counts by its mean count, and may not be one that is there already."""
    for red, split in enumerate(SPLITS):
        lines = []
        for i, side in enumerate((56, 112)):
            Image.new("RGB", (side, 56), (red, 40, 90)).save(tmp_path / f"{split}{i}.png")
            line = {"image": f"{split}{i}.png", "question": "what?", "answer": "a"}
            lines.append(json.dumps(line))
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr("tuner.stages.opened.load_backbone", lambda section: ragged)
    task = {"name": "jsonl", "folder": str(tmp_path)}
    with OpenedStudy(study(task, budget=[2, 0.5, 9], seed_strategy="l2_norm"), tmp_path) as opened:
        tune = opened.split("tune")
        lengths = [len(tune.visual(i).tokens) for i in range(2)]
        mean = round(sum(round(0.5 * length) for length in lengths) / 2)
        assert 2 < mean < 9
        assert [str(budget) for budget in opened.budgets()] == ["9", "0.5", "2"]
    twice = study(task, budget=[mean, 0.5], seed_strategy="l2_norm")
    with (
        OpenedStudy(twice, tmp_path) as opened,
        pytest.raises(StudyError, match=rf"search\.budget: .* {mean} tokens, which another"),
    ):
        opened.budgets()
