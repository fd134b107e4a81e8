"""The evaluation: its statistics against brute force, its answers against `generate`."""

import numpy as np
import torch

from studies.nano.evaluate import (
    ALPHAS,
    Outcomes,
    answer,
    clustered_error,
    encode,
    measure,
    summarise,
)
from studies.nano.model import build_model
from studies.nano.models.llava import BUDGETS
from studies.nano.processor import build_processor, chat
from studies.nano.questions import KINDS
from studies.nano.scenes import PATCHES, generate_scene
from studies.nano.splits import iter_questions


def test_clustered_error_matches_the_bootstrap_over_images():
    rng = np.random.default_rng(0)
    images = np.repeat(np.arange(150), 8)
    values = ((rng.random(150)[images] + rng.random(1200)) > 1).astype(float)
    means = [values.reshape(150, 8)[rng.integers(0, 150, 150)].mean() for _ in range(4000)]
    found = clustered_error(values, [str(i) for i in images])
    assert abs(found - np.std(means)) < 0.05 * np.std(means)
    assert found > 1.5 * values.std() / 1200**0.5


def test_answers_agree_with_generate():
    model, processor = build_model(1).eval(), build_processor()
    questions = iter_questions("monitor", 6)
    tokens, _ = encode(model, [questions[0].scene_seed])
    every = torch.arange(PATCHES).expand(6, -1)
    right = answer(model, tokens, torch.zeros(6, dtype=torch.long), every, questions)
    image = generate_scene(questions[0].scene_seed).image
    for q, ok in zip(questions, right, strict=True):
        prompt = processor.apply_chat_template(chat(q.text), add_generation_prompt=True)
        inputs = processor(images=image, text=prompt, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=1, do_sample=False)
        said = processor.decode(out[0, inputs["input_ids"].shape[1] :])
        assert (said == q.answer) == ok


def test_the_summary_chooses_alpha_on_the_other_split():
    asked = iter_questions("tune", 800)
    questions = [next(q for q in asked if q.kind == kind) for kind in KINDS]
    count = len(questions)

    def outcomes(best):
        right = {"unpruned": np.ones(count)}
        for k in BUDGETS:
            right[f"relevance@{k}"] = np.zeros(count)
            for alpha in ALPHAS:
                right[f"{alpha:g}@{k}"] = np.full(count, 1.0 if alpha == best else 0.5)
        return Outcomes(questions, right)

    found = summarise(outcomes(best=0.0), outcomes(best=1.0))["alpha"][11]
    assert found["chosen_on_tune"] == 1.0
    assert found["best_over_zero"] == {"difference": -0.5, "standard_error": 0.0}
    assert found["best_over_relevance_only"]["difference"] == 0.5


def test_measure_covers_every_method_and_budget():
    found = measure(build_model(0).eval(), "tune", 8)
    methods = ["random", "l2_norm", "cls_attention", "relevance", *(f"{a:g}" for a in ALPHAS)]
    assert set(found.right) == {"unpruned", *(f"{m}@{k}" for m in methods for k in BUDGETS)}
    assert all(v.shape == (8,) for v in found.right.values())
