"""The report: loads nothing, escapes what it is given, and shows the numbers of the results."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from resprune.errors import ResPruneError, StudyError
from tuner.output.report import REPORT_FILE, write_report
from tuner.output.report.figures import front
from tuner.output.report.page import render
from tuner.results.rows import KINDS, label_of
from tuner.results.schema import Results

EVIL = "</script></style><img src=x onerror=\"alert('x')\">&amp;<b>'\u2028"


class Page(HTMLParser):
    """What a browser makes of the page: elements, texts and tables, scripts apart."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, source):
        super().__init__()
        self.elements, self.text, self.scripts, self.rows = [], "", [], []
        self.open = []
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID and tag not in ("path", "image"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append("")
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" in self.open:
            self.scripts[-1] += data
        elif "style" not in self.open:
            self.text += data
            if "tr" in self.open:
                self.rows[-1] += data + " "


def figures_of(page):
    (line,) = [x for x in page.scripts[1].splitlines() if x.startswith("const figures = ")]
    return json.loads(line.removeprefix("const figures = ").removesuffix(";"))


@pytest.fixture
def page(results):
    return Page(render(results))


# -- self-contained ----------------------------------------------------------------------


def test_it_loads_nothing(page):
    loads = ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in loads:
            value = attributes.get(name)
            inside = tag == "use" and value is not None and value.startswith("#image-")
            assert value is None or inside or value.startswith("data:image/png;base64,")
    assert len(page.scripts) == 2  # plotly.js, once, and the figures
    assert "Plotly.newPlot" in page.scripts[1]
    assert not re.search(r"https?://", page.scripts[1])


def test_the_style_loads_nothing(results):
    style = render(results).split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_every_figure_has_its_place_and_is_valid_plotly(page):
    import plotly.graph_objects as go

    figures = figures_of(page)
    places = [a["id"] for tag, a in page.elements if tag == "div" and a.get("class") == "plot"]
    assert places == [f"figure-{i}" for i in range(len(figures))]
    assert len(figures) == 1 + 3 + 2 + 1  # front, curves, arms, weights
    for figure in figures:
        go.Figure(figure)  # raises on an unknown property or a wrong value


# -- the numbers -------------------------------------------------------------------------


def percent(value):
    return f"{100 * value:.1f}".replace("-", "\N{MINUS SIGN}")


def signed(value):
    text = f"{100 * abs(value):.1f}"
    return text if text == "0.0" else ("+" if value > 0 else "\N{MINUS SIGN}") + text


def test_the_answer_comes_first(results):
    source = render(results)
    body = Page(source).text
    assert body.index("Keep 11 of 196 visual tokens (5.6 %)") < body.index("Score against tokens")
    assert "On 1,000 samples that the study had not used, this scores 79.2 %" in body
    assert "14.0 points below all tokens (\N{MINUS SIGN}15.2 to \N{MINUS SIGN}12.8)" in body
    assert "4.2 points above l2_norm, the strongest baseline at the same budget" in body


def test_every_report_row_is_in_a_table_with_its_interval(page, results):
    for row in results.report:
        expected = [label_of(row.kind, row.policy.method)]
        expected.append(percent(row.score.mean))
        expected.append(f"{percent(row.score.low)} to {percent(row.score.high)}")
        for difference in (row.versus_unpruned, row.versus_strongest):
            if difference is not None:
                expected.append(difference.verdict)
                expected.append(signed(difference.mean))
                expected.append(f"{signed(difference.low)} to {signed(difference.high)}")
        assert any(all(part in line for part in expected) for line in page.rows), expected


def test_adaptive_rows_and_groups_are_in_tables(page, results):
    for row in results.adaptive:
        parts = [row.best_fixed, row.adaptive, row.best_per_group, row.oracle]
        gains = [row.adaptive_minus_fixed, row.group_minus_fixed, row.oracle_minus_fixed]
        gains.append(row.versus_best_fixed)
        expected = [percent(p.mean) for p in parts] + [signed(g.mean) for g in gains]
        assert any(all(part in line for part in expected) for line in page.rows), expected
    adaptive = next(r for r in results.report if r.kind == "adaptive" and r.tokens == 11)
    numbers = [percent(interval.mean) for interval in adaptive.by_group.values()]
    assert any(
        line.startswith(KINDS["adaptive"].label) and all(number in line for number in numbers)
        for line in page.rows
    )


def test_the_figures_hold_the_results_numbers(page, results):
    pareto, *curves = figures_of(page)[:4]
    traces = {trace["name"]: trace for trace in pareto["data"]}
    assert traces["Trial, tune split"]["y"] == [t.score * 100 for t in results.trials]
    for name, kind, method in (
        ("Tuned, by prompt", "adaptive", "resprune"),
        ("divprune", "baseline", "divprune"),
        ("l2_norm", "baseline", "l2_norm"),
        ("visionzip", "rival", "visionzip"),
    ):
        rows = [r for r in results.report if (r.kind, r.policy.method) == (kind, method)]
        trace = traces[name]
        assert trace["y"] == [r.score.mean * 100 for r in rows]
        tops = [y + e for y, e in zip(trace["y"], trace["error_y"]["array"], strict=True)]
        assert tops == pytest.approx([r.score.high * 100 for r in rows])
        assert trace["marker"]["color"] == KINDS[kind].color
        assert len(rows) == (2 if kind == "adaptive" else 3)
    looks = {(t["marker"]["color"], t["marker"].get("symbol")) for t in pareto["data"][2:]}
    assert len(looks) == len(pareto["data"]) - 2
    shown = {tuple(t["y"]) for figure in curves for t in figure["data"]}
    assert shown == {tuple(s * 100 for s in c.scores) for c in results.curves}


def test_arms_that_were_never_chosen_are_shown_as_such(results_data):
    results_data["adaptive"][0]["chosen"] = [0, 30, 0, 0, 0, 10, 0]
    figures = figures_of(Page(render(Results.model_validate(results_data))))
    bars = next(f["data"][0] for f in figures if f["data"][0].get("type") == "bar")
    assert bars["y"] == [f"alpha {a}" for a in ("0", "0.25", "0.5", "0.75", "1", "2", "4")]
    assert bars["x"] == [0, 75, 0, 0, 0, 25, 0]
    blue = [color == KINDS["tuned"].color for color in bars["marker"]["color"]]
    assert blue == [False, True, False, False, False, False, False]  # the best fixed arm


def test_a_curve_is_marked_at_the_chosen_and_at_the_paper_value(page):
    first = figures_of(page)[1]["layout"]  # 22 tokens; values stand at 0, 1, 2, ...
    marked = {shape["line"]["color"]: shape["x0"] for shape in first["shapes"]}
    assert marked == {KINDS["tuned"].color: 1, KINDS["paper-default"].color: 3}
    assert first["xaxis"]["ticktext"][1] == "0.25"
    assert first["xaxis"]["ticktext"][3] == "0.75"


def test_an_interval_is_defined_as_a_procedure_and_a_verdict_once(page):
    said = " ".join(page.text.split())
    assert "made in this way from other samples, about 95 in 100 of them hold the mean" in said
    assert said.count("not one of these words is wrong") == 1


def test_options_are_ranked_and_have_no_percentages(page):
    said = page.text.split("Which options matter")[1].split("What it cost")[0]
    assert "budget, alpha, seed" in said
    assert "%" not in said


def test_the_front_is_what_no_trial_beats(results):
    found = front(results.trials)

    def beats(a, b):
        at_least = a.tokens <= b.tokens and a.score >= b.score
        return at_least and (a.tokens, a.score) != (b.tokens, b.score)

    expected = [t for t in results.trials if not any(beats(o, t) for o in results.trials)]
    assert found == sorted(expected, key=lambda t: t.tokens)
    assert len(found) == 3


def test_within_noise_is_called_that(results_data):
    for row in results_data["report"]:
        if row["kind"] == "adaptive" and row["tokens"] == 11:
            row["versus_strongest"] |= {"mean": 0.004, "low": 0.001, "verdict": "within noise"}
    page = Page(render(Results.model_validate(results_data)))
    assert "within noise, these samples do not tell the two apart." in page.text
    (line,) = [line for line in page.rows if "recommended" in line]
    assert "within noise" in line


# -- untrusted texts ---------------------------------------------------------------------


def poison(value, keep=()):
    """Put markup into every text of plain data, keys of named tables included."""
    if isinstance(value, dict):
        return {k: v if k in keep else poison(v, keep) for k, v in value.items()}
    if isinstance(value, list):
        return [poison(v, keep) for v in value]
    return value + EVIL if isinstance(value, str) else value


def test_no_text_of_the_results_becomes_markup(results_data):
    fixed = ("kind", "policy", "setting", "recommended", "option", "image_png_base64", "metric")
    fixed += ("verdict",)
    data = poison(results_data, keep=fixed)
    data["importances"] = {
        method + EVIL: [option + EVIL for option in ranked]
        for method, ranked in results_data["importances"].items()
    }
    data["environment"] = {k + EVIL: EVIL for k in results_data["environment"]}
    data["cost"]["seconds"] = {k + EVIL: v for k, v in results_data["cost"]["seconds"].items()}
    for row in data["report"]:
        row["by_group"] = {k + EVIL: v for k, v in row["by_group"].items()}
    poisoned = render(Results.model_validate(data), study_toml=EVIL)
    for row in results_data["feature_weights"]:
        row["name"] += "!"  # unknown features on both sides: known ones are explained
    clean = Page(render(Results.model_validate(results_data), study_toml="x"))
    page = Page(poisoned)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in clean.elements]
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert page.text.count("onerror") > 30  # shown as the text it is
    for figure in figures_of(page):
        for text in texts(figure):
            assert "<img" not in text
    assert page.scripts[0] == clean.scripts[0]


def test_no_text_of_a_third_partys_method_becomes_markup(results_data, monkeypatch):
    """Names of methods and values of options come from whoever wrote the method."""
    from tuner.output import frame, wording
    from tuner.output.report import figures as drawn

    clean = Page(render(Results.model_validate(results_data)))
    for module in (frame, wording, drawn):
        real = module.policy_text
        monkeypatch.setattr(module, "policy_text", lambda *a, real=real, **k: real(*a, **k) + EVIL)
    monkeypatch.setattr(wording, "arms_text", lambda p: [f"{i}{EVIL}" for i in range(7)])
    page = Page(render(Results.model_validate(results_data)))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in clean.elements]
    for figure in figures_of(page):
        for text in texts(figure):
            assert "<img" not in text


def texts(value):
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def test_an_image_that_is_none_is_said(results_data):
    for bad in ('"/><script>alert(1)</script>', "aGVsbG8=", ""):
        results_data["examples"][0]["image_png_base64"] = bad
        page = Page(render(Results.model_validate(results_data)))
        assert "cannot be shown" in page.text
        assert len(page.scripts) == 2


def test_an_image_is_on_the_page_once_and_its_panels_use_it(page, results):
    images = [a["id"] for tag, a in page.elements if tag == "image"]
    used = [a["href"].removeprefix("#") for tag, a in page.elements if tag == "use"]
    assert len(set(images)) == len(images) == len(results.examples)
    assert used == [name for name in images for _ in range(2)]


def test_kept_tokens_are_holes_in_the_fading(results_data):
    results_data["examples"] = results_data["examples"][:1]
    panels = results_data["examples"][0]["panels"]
    del panels[1]
    panels[0]["boxes"] = [(0, 8, 8, 16)]
    page = Page(render(Results.model_validate(results_data)))
    frames = [a["viewbox"] for tag, a in page.elements if tag == "svg"]
    assert frames == ["0 0 112 112", "0 0 112 112"]  # the image alone, and the panel
    fade, outline = [a["d"] for tag, a in page.elements if tag == "path"]
    assert fade == "M0 0H112V112H0Z" + outline
    assert outline == "M0 8H8V16H0Z"


# -- other shapes of results -------------------------------------------------------------


PARTS = ("trials", "baselines", "chosen", "report", "curves", "adaptive", "feature_weights")
PARTS += ("groups", "examples", "importances", "notes")


@pytest.mark.parametrize("empty", PARTS)
def test_a_part_that_is_missing_is_left_out(results_data, empty):
    results_data[empty] = type(results_data[empty])()
    Page(render(Results.model_validate(results_data)))


def test_results_with_next_to_nothing_still_make_a_page(results_data):
    for key in ("trials", "baselines", "curves", "report", "adaptive", "examples", "chosen"):
        results_data[key] = []
    results_data["importances"] = {}
    results_data["splits"] = {"tune": results_data["splits"]["tune"]}
    page = Page(render(Results.model_validate(results_data)))
    assert "The study chose no config." in page.text


def test_a_model_without_a_fixed_number_of_tokens(results_data):
    results_data["model"]["visual_tokens"] = None
    text = Page(render(Results.model_validate(results_data))).text
    assert "Keep 11 visual tokens: resprune, alpha by prompt" in text
    assert "None" not in text


def test_a_ratio_says_its_mean_count_too(results_data):
    for part in ("chosen", "report"):
        for row in results_data[part]:
            policy = row["policy"]
            for setting in policy.get("arms", [policy]):
                if setting["budget"] == {"count": 11}:
                    setting["budget"] = {"ratio": 0.055}
    results_data["recommended"] = {"ratio": 0.055}
    text = Page(render(Results.model_validate(results_data))).text
    assert "Keep 0.055 of each image: 11 of 196 visual tokens (5.6 %) on average" in text


def test_a_method_that_keeps_all_it_can_still_makes_a_page(results_data):
    """A row without a count of its own beside 'all tokens' does not stop the figures."""
    for row in results_data["report"]:
        row["tokens"] = None
    results_data["model"]["visual_tokens"] = None
    Page(render(Results.model_validate(results_data)))


def test_scores_below_zero_are_not_percent(results_data):
    results_data["study"]["task"]["metric"] = "log_likelihood"
    for row in results_data["report"]:
        row["score"] = {"mean": -1.5, "low": -1.75, "high": -1.25}
    page = Page(render(Results.model_validate(results_data)))
    assert "\N{MINUS SIGN}1.500" in page.text
    assert "score %" not in page.text


# -- the file ----------------------------------------------------------------------------


def test_the_file_is_the_page_with_the_study_as_it_was_written(run_dir, results):
    (run_dir / "study.toml").write_text("[study]\nname = '<mine>'\n", encoding="utf-8")
    path = write_report(run_dir)
    assert path == run_dir / REPORT_FILE
    source = path.read_text(encoding="utf-8")
    assert "name = '<mine>'" in Page(source).text
    assert "<mine>" not in source
    (run_dir / "study.toml").unlink()
    assert '"tolerance": 0.02' in Page(write_report(run_dir).read_text()).text


def test_a_failure_leaves_the_old_report(run_dir, monkeypatch):
    (run_dir / REPORT_FILE).write_text("old")
    before = sorted(run_dir.iterdir())

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(StudyError, match="No space left"):
        write_report(run_dir)
    assert (run_dir / REPORT_FILE).read_text() == "old"
    assert sorted(run_dir.iterdir()) == before


def test_a_torn_results_file_is_refused(run_dir):
    path = run_dir / "results.json"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ResPruneError, match=r"results\.json"):
        write_report(run_dir)
    assert not (run_dir / REPORT_FILE).exists()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_draws_every_figure(run_dir, tmp_path):
    page = write_report(run_dir)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--virtual-time-budget=5000", "--dump-dom"]
    command = ["chromium", *options, f"--user-data-dir={tmp_path / 'chromium'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    drawn = re.findall(r'id="figure-(\d+)" class="plot js-plotly-plot"', done.stdout)
    assert len(drawn) == 7
