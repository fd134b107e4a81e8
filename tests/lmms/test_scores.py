"""lmms-eval's own POPE through the plug-in, against our POPE: the same scores, sample by sample."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lmms_eval")

import lmms_eval
from datasets import Dataset, Image

from resprune import NounExtractor, PruningConfig
from resprune.setting import Setting
from studies.nano import model_dir
from studies.nano.scenes import generate_scene
from studies.nano.splits import iter_questions
from tuner import tasks
from tuner.scoring.bench import Bench
from tuner.scoring.model import load_backbone
from tuner.scoring.split import Split
from tuner.study import BackboneSection

POPE = Path(lmms_eval.__file__).parent / "tasks" / "pope" / "pope.yaml"
SETTING = Setting.of("resprune", 6, alpha=0.5, seed_strategy="l2_norm")
NEW_TOKENS = 128  # as the task has it
_TASK = """
include: {pope}
task: pope_local
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {data}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of lmms-eval that is its POPE on scenes, and the data, in the columns of POPE."""
    found = tmp_path_factory.mktemp("pope")
    rows = []
    for question in iter_questions("monitor", 600):
        if question.kind != "exists":
            continue
        file = io.BytesIO()
        generate_scene(question.scene_seed).image.save(file, "PNG")
        rows.append(
            {
                "id": str(len(rows)),
                "question_id": str(len(rows)),
                "image_source": question.image_id,
                "question": question.text,
                "answer": question.answer,
                "category": "random",
                "image": {"bytes": file.getvalue(), "path": None},
            }
        )
    (found / "set" / "data").mkdir(parents=True)
    data = found / "set" / "data" / "test-00000-of-00001.parquet"
    Dataset.from_list(rows[:48]).cast_column("image", Image()).to_parquet(str(data))
    (found / "pope_local.yaml").write_text(_TASK.format(pope=POPE, data=data), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def theirs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What lmms-eval says of the pruned model."""
    from lmms_eval import evaluator
    from lmms_eval.tasks import TaskManager

    config = tmp_path_factory.mktemp("config")
    PruningConfig.from_dict(
        {"default": SETTING.budget.model_dump(), "table": [SETTING.model_dump(mode="json")]}
    ).save_pretrained(config)
    return evaluator.simple_evaluate(
        model="resprune",
        model_args=f"pretrained={model_dir('nano-llava')},config={config}",
        tasks=["pope_local"],
        task_manager=TaskManager("INFO", include_path=str(folder), model_name="resprune"),
        batch_size="8",
        device="cpu",
        log_samples=True,
    )


def test_every_sample_scores_the_same(folder: Path, theirs: Any, tmp_path: Path) -> None:
    backbone = load_backbone(BackboneSection(model="nano-llava", device="cpu"))
    task = tasks.get("pope", dataset=str(folder / "set"), max_new_tokens=NEW_TOKENS)
    bench = Bench.open(backbone, task, "score", tmp_path, NounExtractor())
    split = Split("report", task.samples("test", None), bench)
    ours = split.score(SETTING).tolist()
    said = split.answers(split.plans([SETTING]))[0]
    samples = sorted(theirs["samples"]["pope_local"], key=lambda sample: sample["doc_id"])
    assert [sample["filtered_resps"][0] for sample in samples] == said
    assert [sample["pope_accuracy"]["score"] for sample in samples] == ours
    assert 0 < sum(ours) < len(ours)  # some are right and some wrong
    results = theirs["results"]["pope_local"]
    for name, value in split.measures(SETTING).items():
        assert results[f"{name},none"] == pytest.approx(value), name
    bench.outcomes.close()
