"""The study of ``docs/how-to/method.md``, small: its option searched, its config served."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import resprune
from resprune.methods import base
from studies.nano.example import example
from tuner.results.schema import Results
from tuner.run import run_study
from tuner.study import load_study

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "method.md"
BUDGETS, EXPONENTS = (43, 11), (0.0, 0.5, 1.0)


def block(title: str) -> str:
    """The page's file of that name."""
    pattern = rf'```\w+ title="{re.escape(title)}"\n(.*?)```'
    [text] = re.findall(pattern, PAGE.read_text("utf-8"), re.DOTALL)
    return str(text)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page's study file, its method registered; it is forgotten again afterwards."""
    path = tmp_path_factory.mktemp("written") / "outliers.toml"
    path.write_text(block("outliers.toml"), encoding="utf-8")
    before = dict(base._METHODS)
    module = sys.modules["outliers"] = ModuleType("outliers")
    try:
        exec(compile(block("outliers.py"), f"{PAGE.name}:outliers.py", "exec"), vars(module))
        yield path
    finally:
        sys.modules.pop("outliers")
        base._METHODS.clear()
        base._METHODS.update(before)


@pytest.fixture(scope="module")
def run_dir(study: Path) -> Path:
    """Its run folder: few samples, and its rival left out, so that the page's method is served."""
    few = {"samples": 16}
    overrides = {
        "study": {"trials": 6},
        "task": {"tune": few, "report": few},
        "search": {"method": ["outliers"]},
    }
    run_study(load_study(study, overrides), study.parent)
    return study.parent / "outliers"


def test_the_file_is_fine_as_it_stands(study: Path) -> None:
    search = load_study(study).search
    assert search.method == ("outliers", "l2_norm")
    assert tuple(budget.count for budget in search.budget) == BUDGETS


def test_its_option_is_searched_at_every_budget(run_dir: Path) -> None:
    settings = [trial.setting for trial in Results.load(run_dir).trials]
    tried = Counter((s.method, s.option("exponent"), s.budget.count) for s in settings)
    assert tried == {("outliers", each, budget): 1 for each in EXPONENTS for budget in BUDGETS}


def test_its_config_is_served(run_dir: Path) -> None:
    """What is kept equals the rule written out in NumPy, under the exponent that was chosen."""
    config = resprune.PruningConfig.from_pretrained(run_dir / "config")
    assert {policy.method for policy in config.table} == {"outliers"}
    model, processor, inputs = example("nano-llava", question="What color is the star?")
    for budget in BUDGETS:
        with resprune.attach(model, processor, config, budget=budget) as attached:
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
            record = attached.last
        [visual] = attached.backbone.encode(inputs, signals=["cls_attention"])
        rows = visual.tokens.double().numpy()
        mean = rows.mean(axis=0)
        cosine = rows @ mean / np.linalg.norm(rows, axis=1) / np.linalg.norm(mean)
        attention = visual.signals["cls_attention"].double().numpy()
        rank = (1 - cosine) * attention ** config.policy(budget).option("exponent")
        expected = np.argsort(-rank, kind="stable")[:budget]
        assert record.kept[0].tolist() == sorted(expected.tolist())
