"""The rules of the benchmarks against lmms-eval's own tasks, on generated rows."""

from __future__ import annotations

import copy
import inspect
import math
import random
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lmms_eval")

import datasets
import lmms_eval.tasks
import pandas as pd
from lmms_eval import utils
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.tasks._task_utils.mcq_extract import _ANSWER_PHRASES, extract_mcq_answer
from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor
from lmms_eval.tasks.mmbench import cn_utils, en_utils

from tests.lmms import documents
from tests.lmms.documents import Row, Rows
from tuner.tasks.benchmarks.rules import (
    _letters,
    gqa,
    mmbench,
    mme,
    pope,
    scienceqa,
    textvqa,
    vizwiz,
    vqav2,
)
from tuner.tasks.vqa_accuracy import vqa_normalized

COUNT = 600
SCORED = {  # task file of lmms-eval, our rule, rows
    "gqa/gqa": (gqa, documents.gqa),
    "mme/mme": (mme, documents.mme),
    "pope/pope": (pope, documents.pope),
    "pope/pope_adv": (pope, documents.pope),
    "pope/pope_pop": (pope, documents.pope),
    "pope/pope_random": (pope, documents.pope),
    "scienceqa/scienceqa_img": (scienceqa, documents.scienceqa),
    "vqav2/vqav2_val": (vqav2, documents.vqav2),
    "textvqa/textvqa_val": (textvqa, documents.textvqa),
    "vizwiz_vqa/vizwiz_vqa_val": (vizwiz, documents.textvqa),
}
ROTATED = {
    "mmbench/mmbench_en_dev_static": (partial(mmbench.prompt, language="en"), en_utils),
    "mmbench/mmbench_cn_dev": (partial(mmbench.prompt, language="cn"), cn_utils),
}


class _Task(ConfigurableTask):
    """A task of lmms-eval over one generated row instead of the hub's data set."""

    row: Row

    def download(self, dataset_kwargs: Any = None) -> None:
        rows = datasets.Dataset.from_list([self.row])
        self.dataset = self.dataset_no_image = {self.config.test_split: rows}


def _task(name: str, row: Row) -> ConfigurableTask:
    """Load lmms-eval's own task file: its functions, its prompts and its metrics."""
    path = Path(lmms_eval.tasks.__file__).parent / f"{name}.yaml"
    config = utils.load_yaml_config(yaml_path=str(path), mode="full")
    made = type("Task", (_Task,), {"row": row})(config=config, model_name="any")
    assert made.lmms_eval_specific_kwargs["post_prompt"]
    return made


def _rows(make: Callable[[random.Random, int], Rows], name: str) -> Rows:
    return make(random.Random(name), COUNT)


def _value(result: Any) -> float:
    return float(result["score"] if isinstance(result, dict) else result)


@pytest.mark.parametrize("name", SCORED)
def test_prompts_scores_and_summaries_are_those_of_lmms_eval(name: str) -> None:
    rule, make = SCORED[name]
    rows = _rows(make, name)
    task = _task(name, rows[0][0])
    results = defaultdict(list)
    scores = set()
    for row, prediction in rows:
        before = copy.deepcopy(row)
        assert rule.prompt(row) == task.doc_to_text(copy.deepcopy(row))
        theirs = task.process_results(copy.deepcopy(row), [prediction])
        theirs.pop("submission", None)
        ours = rule.score(prediction, row)
        assert {_value(result) for result in theirs.values()} == {ours}, (row, prediction)
        assert rule.question(row) in rule.prompt(row)
        assert isinstance(rule.answers(row), tuple)
        assert row == before
        scores.add(ours)
        for metric, result in theirs.items():
            results[metric].append(result)
    assert {0.0, 1.0} <= scores

    summary = rule.summary([row for row, _ in rows], [prediction for _, prediction in rows])
    assert summary.keys() == results.keys()
    for metric, found in results.items():
        assert math.isclose(summary[metric], task.aggregation()[metric](found), rel_tol=1e-12)


@pytest.mark.parametrize("name", ROTATED)
def test_mmbench_is_that_of_lmms_eval(name: str, tmp_path: Path) -> None:
    prompt, theirs = ROTATED[name]
    rows = _rows(documents.mmbench, name)
    task = _task(name, next(row for row, _ in rows if "E" in row))
    results = []
    scores = set()
    for row, prediction in rows:
        before = copy.deepcopy(row)
        assert prompt(row) == task.doc_to_text(copy.deepcopy(row))
        result = task.process_results(copy.deepcopy(row), [prediction])["gpt_eval_score"]
        alone = pd.DataFrame([result]), {row["index"]: row["answer"]}
        ours = mmbench.score(prediction, row)
        assert ours == theirs.mmbench_evaluator.eval_sub_data(*alone, static_only=True), row
        assert mmbench.question(row) in prompt(row)
        assert mmbench.answers(row) == (row["answer"],)
        assert row == before
        scores.add(ours)
        results.append(result)
    assert scores == {0.0, 1.0}

    summary = mmbench.summary([row for row, _ in rows], [prediction for _, prediction in rows])
    whole = _static(theirs, results)
    assert 10 < whole < 90
    assert math.isclose(summary.pop("gpt_eval_score"), whole, rel_tol=1e-12)
    assert not summary
    aggregate = task.aggregation()["gpt_eval_score"]
    if "static" in name:
        args = SimpleNamespace(output_path=str(tmp_path))
        assert aggregate(results, args) == whole
    assert "args" in inspect.signature(aggregate).parameters


def _static(theirs: ModuleType, results: list[Any]) -> float:
    overall, _, _ = theirs.mmbench_evaluator.eval_result(
        copy.deepcopy(results), eval_method="static"
    )
    return float(overall) * 100


def test_letters_are_found_as_lmms_eval_finds_them() -> None:
    rng = random.Random(0)
    pieces = [*"AABBCDEabFG .,:;()!?'\" .,:;()!?'\"", "\n", "İ", "cat", "Answer is", "选"]
    forms = ("{}", "{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).", ":{}", ":{},", ":{})")
    words = [form.format(letter) for form in forms for letter in "ABCDE"]
    words += ["cat", "a", "x", "Failed to obtain answer via API"] * 4 + _ANSWER_PHRASES
    evaluator = en_utils.mmbench_evaluator
    found = set()
    for _ in range(20 * COUNT):
        spelt = "".join(rng.choices(pieces, k=rng.randint(0, 12)))
        few = [*rng.sample(words, 3), *rng.sample(("A", "B", "answer is", "the answer is"), 2)]
        said = " ".join(rng.choices(few, k=rng.randint(1, 8)))
        answer = rng.choice((spelt, said, f"{said} x"))
        options = {letter: rng.choice(("cat", "a", "BC", "x")) for letter in "ABCD"}
        inferred = _letters.inferred(answer, options)
        assert inferred == (evaluator.can_infer(answer, dict(options)) or ""), answer
        letters = list("ABCD"[: rng.randint(0, 4)])
        extracted = _letters.extracted(answer, letters)
        assert extracted == extract_mcq_answer(answer, choices=letters), (answer, letters)
        found |= {inferred, extracted}
    assert found == {"", *"ABCDEFGH"} - {"H"}


def test_answers_are_normalised_as_lmms_eval_normalises_them() -> None:
    rng = random.Random(0)
    theirs = EvalAIAnswerProcessor()
    table = EvalAIAnswerProcessor.CONTRACTIONS
    texts = [*table, *table.values(), *(f"I say {word}." for word in table)]
    texts += [documents.phrase(rng) for _ in range(10 * COUNT)]
    for text in texts:
        assert vqa_normalized(text) == theirs(text), text
        plain = text.replace("\n", " ").replace("\t", " ").strip()
        plain = theirs.process_digit_article(theirs.process_punctuation(plain))
        assert vqa_normalized(text, tokenize=False) == plain, text
