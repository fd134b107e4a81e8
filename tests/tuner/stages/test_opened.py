"""What only the model can tell of a study: checked before anything is scored."""

import json

import pytest
from PIL import Image

from resprune import backbones
from resprune.errors import ResPruneError, StudyError
from resprune.testing.tiny import tiny_qwen
from tuner import tasks
from tuner.scoring.model import load_backbone
from tuner.stages.opened import OpenedStudy, check_model, load_samples
from tuner.study import study_from_dict
from tuner.tasks.rows import Encoded

SPLITS = ("tune", "report")


def study(task=None, seed=0, **search):
    return study_from_dict(
        {
            "study": {"name": "s", "seed": seed},
            "backbone": {"model": "nano-llava", "device": "cpu"},
            "task": {
                "name": "nano-scenes",
                **{name: {"split": name, "samples": 2} for name in SPLITS},
                **(task or {}),
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


def test_images_are_compared_before_anything_is_encoded_and_decoded_once(tmp_path, monkeypatch):
    decoded = []
    for split in SPLITS:
        (tmp_path / f"{split}.jsonl").write_text(
            "\n".join(
                json.dumps({"image": f"{split}{i}.png", "question": "what?", "answer": "a"})
                for i in range(2)
            )
        )
        for i in range(2):
            color = (40 * i, 40 * SPLITS.index(split), 90)
            Image.new("RGB", (56, 56), color).save(tmp_path / f"{split}{i}.png")
    real = Encoded.open
    monkeypatch.setattr(Encoded, "open", lambda self: decoded.append(self.place) or real(self))
    config = study({"name": "table", "data": str(tmp_path)})
    for times in (4, 4):  # a resumed study knows their hashes
        with OpenedStudy(config, tmp_path) as opened:
            assert len(decoded) == times
            assert opened.bench.visual.encoder_calls == 0
    Image.new("RGB", (56, 56), (0, 0, 90)).save(tmp_path / "report1.png", "BMP")  # is tune0.png
    named = r"'report-2' \(image 'report1.png'\) .* sample 'tune-1' \(image 'tune0.png'\) of tune"
    with pytest.raises(StudyError, match=named):
        OpenedStudy(config, tmp_path)


def test_splits_are_thinned_by_the_seed_of_the_study():
    few = {"split": "certify", "samples": 40, "questions_per_image": 1}
    task = tasks.get("nano-scenes")
    by_seed = [
        [s.id for s in load_samples(study({"certify": few}, seed), task)["certify"]]
        for seed in (0, 1)
    ]
    images = [name.rsplit("-", 1)[0] for name in by_seed[0]]
    assert len(set(images)) == 40
    assert images == [name.rsplit("-", 1)[0] for name in by_seed[1]]
    assert by_seed[0] != by_seed[1]


def test_parts_of_one_split_that_are_thinned_otherwise_are_compared_by_image():
    every = {"split": "certify", "samples": 16, "offset": 16}
    one = {"split": "certify", "samples": 3, "questions_per_image": 1}
    clash = study({"certify": one, "report": every})  # the ranges tell nothing; image 2 is in both
    with pytest.raises(StudyError, match=r"task\.report: image 'certify-000002' is in certify too"):
        load_samples(clash, tasks.make(clash.task))
    fine = study({"certify": {**one, "samples": 2}, "report": every})
    load_samples(fine, tasks.make(fine.task))


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
    task = {"name": "table", "data": str(tmp_path)}
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
