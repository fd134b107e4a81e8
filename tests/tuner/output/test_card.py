"""The card's numbers are those of the results, and differences are called by their intervals."""

import re

import pytest

import resprune
from resprune.budget import Count
from tuner.output.card import render_card
from tuner.output.export import build_config
from tuner.output.wording import Scale
from tuner.results.rows import label_of
from tuner.results.schema import Results


def card_of(data):
    for chosen in data["chosen"]:
        chosen["policy"] = chosen["setting"]
    results = Results.model_validate(data)
    return render_card(results), results


def percent(value):
    return f"{100 * value:.1f}"


def test_every_score_of_the_report_split_is_there(results_data):
    card, results = card_of(results_data)
    table = card.split("## Everything that was scored")[1].split("##")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(lines) == len(results.report)
    for row in results.report:
        low, high = percent(row.score.low), percent(row.score.high)
        expected = f"{percent(row.score.mean)} % ({low} to {high})"
        label = label_of(row.kind, row.policy.method).replace("_", "\\_")
        assert any(f"| {label} |" in line and expected in line for line in lines)


def test_the_first_sentence_is_the_answer(results_data):
    card, _ = card_of(results_data)
    assert (
        "**Keep 11 of 196 visual tokens (5.6 %): resprune, alpha 0.25, seed cls\\_attention.**"
        in card
    )
    assert "On 1,000 samples that the study had not used, this scores 77.0 %" in card


def test_what_the_numbers_rest_on_is_said(results_data):
    card, _ = card_of(results_data)
    for part in (
        "Study: nano-llava, objective pareto, seed 0, 90 trials",
        "300 samples on 38 images",
        "2,000 samples on 250 images",
        "1,000 samples on 125 images",
        "Model: nano-llava, revision none, family llava, 196 visual tokens",
        "torch 2.13.0",
        "2 min 40 s",
        "## Limitations",
        "## Licence",
        "The report split is the first 1,000 questions of it.",
    ):
        assert part in card


def test_its_lines_of_python_run(results_data, tmp_path, monkeypatch):
    card, results = card_of(results_data)
    code = card.split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) <= 5
    build_config(results, None, "run").save_pretrained(tmp_path)
    called = {}

    class Attached:
        def __init__(self, *args):
            called["attach"] = args

        def __enter__(self):
            return self

        def __exit__(self, *args):
            called["done"] = True

    class Model:
        def generate(self, **options):
            called["generate"] = options

    monkeypatch.setitem(vars(resprune), "attach", Attached)
    names = {"model": Model(), "processor": "p", "inputs": {"input_ids": 1}}
    exec(code.replace("THIS_FOLDER", str(tmp_path)), names)
    assert called["attach"][2].default == Count(count=11)
    assert called["generate"] == {"input_ids": 1, "max_new_tokens": 20}
    assert called["done"]


@pytest.mark.parametrize(
    ("verdict", "sentence"),
    [
        ("better", "more than chance"),
        ("worse", "more than chance"),
        ("within noise", "within noise, these samples do not tell the two apart"),
        ("too few images", "too few images for a verdict"),
    ],
)
def test_a_difference_is_called_by_its_verdict_not_its_interval(results_data, verdict, sentence):
    for row in results_data["report"]:
        if row["kind"] == "tuned" and row["tokens"] == 11:
            row["versus_strongest"] |= {"verdict": verdict, "against": "divprune"}
    card, _ = card_of(results_data)
    (line,) = [line for line in card.splitlines() if line.startswith("| 11 of 196")]
    cell = line.split(" | ")[3]
    assert cell.startswith("divprune: +2.0 (+1.2 to +2.8)")
    assert cell.endswith(f", {verdict}")
    (said,) = [s for s in card.splitlines() if "the strongest baseline at the same budget" in s]
    assert "2.0 points above divprune, the strongest baseline" in said
    assert sentence in said


def test_texts_of_the_study_cannot_write_markdown(results_data):
    results_data["model"]["id"] = "x](http://a.example) <script>alert(1)</script>"
    results_data["notes"] = ["| a | b |\n# heading"]
    results_data["environment"] = {"[a](http://a.example)": "<b>"}
    results_data["study"]["study"]["name"] = "`*x*` <i>"
    card, _ = card_of(results_data)
    assert "<i>" not in card
    assert "<b>" not in card
    assert "\\`\\*x\\*\\`" in card
    assert "<script" not in card
    assert not re.search(r"(?<!\\)\]\(http", card)
    assert "\n# heading" not in card
    assert "base_model" not in card


def test_a_hub_model_is_named_as_the_base(results_data):
    results_data["model"]["id"] = "llava-hf/llava-1.5-7b-hf"
    assert "base_model: llava-hf/llava-1.5-7b-hf" in card_of(results_data)[0]


def test_log_likelihoods_are_not_percent(results_data):
    results_data["study"]["task"]["metric"] = "log_likelihood"
    results = Results.model_validate(results_data)
    scale = Scale.of(results)
    assert scale.number(-1.25) + scale.unit == "\N{MINUS SIGN}1.250"
    assert " %" not in scale.interval(results.report[0].score)


@pytest.mark.parametrize(("value", "said"), [(0.024, "+2.4"), (-0.02, "\N{MINUS SIGN}2.0")])
def test_differences_have_a_sign(value, said):
    assert Scale().signed(value) == said


@pytest.mark.parametrize("value", [0.0, -0.0, 0.0004, -0.0004])
def test_a_difference_that_rounds_to_zero_has_none(value):
    assert Scale().signed(value) == "0.0"


def test_two_equal_scores_are_level(results_data):
    for row in results_data["report"]:
        if row["kind"] == "tuned" and row["tokens"] == 11:
            row["versus_strongest"] |= {"mean": 0.0, "low": -0.01, "high": 0.01}
    card, _ = card_of(results_data)
    assert "Level with l2\\_norm, the strongest baseline at the same budget" in card
    assert "0.0 points above" not in card
