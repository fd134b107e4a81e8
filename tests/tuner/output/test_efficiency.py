"""Speed is said with its interval, on the first screen of the report, in the card and console."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from resprune.setting import Setting
from tuner.output.card import render_card
from tuner.output.console import show_results
from tuner.output.efficiency import (
    headline,
    lines,
    page,
    sentence,
    show_efficiency,
    speed_text,
    write_efficiency,
)
from tuner.output.report.page import render
from tuner.results.efficiency import Efficiency, Measured, Speedup
from tuner.results.schema import Results


def plain(html):
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.mark.parametrize(
    ("low", "ratio", "high", "said"),
    [
        (1.2, 1.5, 1.8, "1.50 times faster (1.20 to 1.80)"),
        (0.5, 0.8, 0.9091, "1.25 times slower (1.10 to 2.00)"),  # the ends of 1 / ratio
        (0.9, 1.1, 1.3, "not told apart (0.90 to 1.30 times as fast)"),
    ],
)
def test_a_ratio_is_called_by_its_interval(low, ratio, high, said):
    assert speed_text(Speedup(low=low, ratio=ratio, high=high)) == said


def test_a_policy_that_pays_says_how_much(results):
    said = sentence(results.efficiency, results.efficiency.rows[1])
    assert said == (
        "Pruning to 22 visual tokens makes the first token 1.50 times faster (1.41 to 1.59, 95 % "
        "interval) on this model and machine; prefill takes 26 % of the arithmetic and 26 % of the "
        "cache memory."
    )


def test_a_policy_that_does_not_pay_says_that_and_from_where_it_would(results):
    said = sentence(results.efficiency, results.efficiency.rows[2])
    assert "makes the first token 1.25 times slower (1.18 to 1.33, 95 % interval)" in said
    assert said.endswith(
        "For it to pay, an image would have to have about 293 visual tokens, or the language model "
        "about 1.79 M parameters in its layers (here 655 k)."
    )
    said = sentence(results.efficiency, results.efficiency.rows[3])
    assert "neither faster nor slower" in said
    assert "9 rounds can tell (speed 0.95 to 1.07 times, 95 % interval)" in said


def test_limits_that_are_met_already_are_not_called_conditions(results_data):
    row = results_data["efficiency"]["rows"][2]
    row["break_even"] = {"visual_tokens": 84, "parameters": 900_000}
    found = Efficiency.model_validate(results_data["efficiency"])
    assert "near each other here" in sentence(found, found.rows[2])
    row["break_even"] = {"visual_tokens": None, "parameters": None}
    found = Efficiency.model_validate(results_data["efficiency"])
    assert "cannot be told" in sentence(found, found.rows[2])


def test_the_first_screen_and_the_card_say_speed_and_memory_beside_the_loss(results):
    said = headline(results)  # of the 11 tokens that are recommended
    assert "Pruning to 11 visual tokens makes the first token 1.25 times slower" in said
    first_screen = plain(render(results).split("<h2>")[0])
    card = render_card(results)
    assert said in first_screen
    assert said in card
    for row, speed in ((1, "1.50 times faster (1.41 to 1.59)"), (2, "1.25 times slower")):
        policy = results.efficiency.rows[row]
        memory = f"cache {100 * (40 + policy.kept) / 236:.0f} %"
        assert re.search(rf"{re.escape(speed)}[^%]*{memory}", card)
        assert re.search(rf"{re.escape(speed.replace('(', '')[:28])}[^%]*{memory}", first_screen)
    output = io.StringIO()
    show_results(results, Path("run"), Console(file=output, width=300))
    assert said in " ".join(output.getvalue().split())


def test_where_nothing_is_recommended_the_largest_budget_is_spoken_of(results_data):
    results_data["recommended"] = {"ratio": 1.0}
    said = headline(Results.model_validate(results_data))
    assert "Pruning to 22 visual tokens makes the first token 1.50 times faster" in said


def test_results_without_the_stage_say_nothing_of_speed(results_data):
    del results_data["efficiency"]
    results = Results.model_validate(results_data | {"schema_version": 3})
    assert headline(results) == ""
    assert "makes the first token" not in render(results)
    assert "times faster" not in render_card(results)


def test_a_row_that_cannot_run_says_why_everywhere(results_data, tmp_path):
    found = Efficiency.model_validate(results_data["efficiency"])
    failed = Measured(policy=Setting.of("downsample", 4), error="changes the image | first")
    found = found.model_copy(update={"rows": (*found.rows, failed)})
    assert lines(found)[-1][2] == "not run: changes the image | first"
    output = io.StringIO()
    show_efficiency(found, Console(file=output, width=300))
    assert "downsample at 4: not run: changes the image" in output.getvalue()
    written = write_efficiency(found, tmp_path / "new")
    assert [path.name for path in written] == ["efficiency.json", "efficiency.md"]
    assert Efficiency.model_validate_json(written[0].read_text()) == found
    assert written[1].read_text() == page(found)
    table = [line for line in page(found).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1  # no cell breaks a row


def test_extrapolated_times_are_called_that(results_data):
    data = results_data["efficiency"] | {"layers": 32, "measured_layers": [1, 3]}
    found = Efficiency.model_validate(data)
    assert "extrapolated as a + L b from 1 and 3" in page(found)
    assert "(extrapolated)" in sentence(found, found.rows[1])
