"""The command line: exit codes, what goes where, and how fast it answers."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tuner import cli
from tuner.cli_common import parse_budget

STUDY = """
[study]
name = "cli"
trials = 2
[backbone]
model = "nano-llava"
[task]
name = "nano-scenes"
tune = { split = "tune", samples = 8 }
report = { split = "report", samples = 8 }
[search]
budget = [6]
seed_strategy = ["l2_norm"]
[alpha]
adaptive = false
grid = [0.0, 1.0]
[report]
examples = 1
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "cli.toml"
    path.write_text(STUDY)
    return path


def call(capsys, *arguments):
    """Run the command line in this process; (exit code, stdout, stderr)."""
    with pytest.raises(SystemExit) as caught:
        cli.app([str(argument) for argument in arguments])
    out = capsys.readouterr()
    return caught.value.code or 0, out.out, out.err


def test_run_prints_json_alone_then_report_and_export_work(study, tmp_path, capsys):
    runs = tmp_path / "runs"
    code, out, err = call(capsys, "run", study, "--runs", runs, "--json")
    assert code == 0, err
    data = json.loads(out)
    assert data["recommended"] == {"count": 6}
    assert data["cost"]["trials"] == 2
    code, out, _ = call(capsys, "report", runs / "cli")
    assert (code, out.strip()) == (0, str(runs / "cli" / "report.html"))
    code, out, _ = call(capsys, "export", runs / "cli", "--out", tmp_path / "out")
    assert code == 0
    assert (tmp_path / "out" / "pruning_config.json").is_file()
    # the third trial changes the choice, and the report was seen
    code, _, err = call(capsys, "run", study, "--runs", runs, "--trials", 3)
    assert code == 2
    assert "give --report-offset 8" in err
    code, out, err = call(capsys, "run", study, "--runs", runs, "--trials", 3, "--report-offset", 8)
    assert code == 0
    assert "the strongest baseline" in " ".join(out.split())
    assert "recommended" in out
    assert "Trials on the tune split" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "nano-lava"],
            "error: nano-lava: no such file.* Did you mean 'nano-llava'",
        ),
        (["validate", "nowhere.toml"], "error: nowhere.toml: no such file"),
        (["export", "nowhere"], "error: nowhere/results.json: not found"),
        (["ls", "task"], "error: cannot list 'task'. Did you mean 'tasks'"),
        (["run", "nano-llava", "--trials", "0"], r"error: .*study\.trials"),
        (["run", "nano-llava", "--positions", "dense"], r"error: .*search\.positions.*'dense'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, arguments, message):
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert re.match(message, err)
    assert err.count("\n") == 1


def test_options_take_the_place_of_the_file_s(study, capsys, monkeypatch):
    class Asked(Exception):
        pass

    def run_study(config, *_):
        raise Asked(config)

    monkeypatch.setattr("tuner.run.run_study", run_study)
    study.write_text(
        STUDY.replace(
            "report = ",
            'certify = { split = "certify", samples = 6, questions_per_image = 1 }\nreport = ',
        )
    )
    ranges = ["--certify-samples", "9", "--certify-offset", "600", "--report-offset", "16"]
    ranges += ["--positions", "compact"]
    with pytest.raises(Asked) as caught:
        cli.app(["run", str(study), "--quiet", *ranges], standalone_mode=False)
    (config,) = caught.value.args
    assert config.search.positions == ("compact",)
    task = config.task
    assert (task.certify.samples, task.certify.offset, task.certify.end) == (9, 600, 609)
    assert (task.certify.split, task.certify.questions_per_image) == ("certify", 1)
    assert (task.report.samples, task.report.offset) == (8, 16)
    assert (task.tune.samples, task.tune.offset) == (8, 0)
    # a range of no certify split is no split
    study.write_text(STUDY)
    code, _, err = call(capsys, "run", study, "--certify-offset", 600)
    assert code == 2
    assert "task.certify.split' is missing" in err


def test_validate_compares_the_images(tmp_path, capsys):
    from PIL import Image

    for split in ("tune", "report"):
        Image.new("RGB", (9, 9), "red").save(tmp_path / f"{split}.png")
        line = {"image": f"{split}.png", "question": "q?", "answer": "a"}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(line))
    path = tmp_path / "s.toml"
    text = STUDY.replace("samples = 8", "samples = 1")
    path.write_text(text.replace('"nano-scenes"', '"table"\ndata = "."'))
    code, _, err = call(capsys, "validate", path)
    assert code == 2
    assert "task.report: sample 'report-1' (image 'report.png') shows the same picture as" in err
    Image.new("RGB", (9, 9), "blue").save(tmp_path / "report.png")
    assert call(capsys, "validate", path)[0] == 0


def test_wrong_usage_is_exit_code_2(capsys):
    code, _, err = call(capsys, "run")
    assert code == 2
    assert "Missing argument" in err


def test_an_interruption_is_exit_code_130(study, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tuner.run.run_study", interrupted)
    code, _, err = call(capsys, "run", study, "--runs", tmp_path)
    assert code == 130
    assert "run the same command again" in err


def test_an_unwritable_runs_folder(study, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, _, err = call(capsys, "run", study, "--runs", tmp_path / "file", "--quiet")
    assert code == 2
    assert "file/cli: cannot be written" in err


def test_validate(study, capsys):
    code, out, _ = call(capsys, "validate", study)
    assert code == 0
    assert "fine (2 trials of resprune at 6 tokens)" in out
    study.write_text(STUDY.replace("[6]", "[197]"))
    assert call(capsys, "validate", study, "--no-model")[0] == 0
    code, _, err = call(capsys, "validate", study)
    assert code == 2
    assert "197 is over the 196 visual tokens" in err


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("studies", "nano-llava"),
        ("tasks", "table"),
        ("methods", "resprune"),
    ],
)
def test_ls(capsys, what, name):
    assert name in call(capsys, "ls", what)[1].split()
    assert name in json.loads(call(capsys, "ls", what, "--json")[1])


def test_ls_backbones_is_a_table_of_facts(capsys):
    import resprune

    code, out, _ = call(capsys, "ls", "backbones", "--json")
    assert code == 0
    facts = {entry["family"]: entry for entry in json.loads(out)}
    assert list(facts) == resprune.backbones.names()
    assert facts["qwen2_5_vl"]["positions"] == "M-RoPE (t, h, w)"
    assert "cls_attention" not in facts["qwen2_5_vl"]["seed_strategies"]
    code, out, _ = call(capsys, "ls", "backbones")
    assert code == 0
    words = out.split()
    for column in ("family", "transformers", "seed", "positions", "refused"):
        assert column in words
    for entry in facts.values():
        assert {entry["family"], *entry["transformers_classes"]} <= set(words)


@pytest.mark.parametrize(("text", "value"), [("11", 11), ("0.1", 0.1)])
def test_budgets_of_predict(text, value):
    assert parse_budget(text) == value
    assert type(parse_budget(text)) is type(value)


def test_a_budget_that_is_no_number(capsys):
    options = ["--image", "x.png", "--question", "?", "--budget", "ten"]
    code, _, err = call(capsys, "predict", "config", *options)
    assert code == 2
    words = " ".join(err.replace("│", " ").split())
    assert "'--budget': 'ten' is no number; give a count such as 11 or a ratio" in words


def test_help_imports_nothing_heavy():
    code = (
        "import sys, tuner.cli\n"
        "try: tuner.cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'optuna', 'spacy', 'sklearn', 'numpy', 'pydantic'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    start = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    end = os.times()
    assert done.returncode == 0, done.stderr
    assert "validate" in done.stdout
    # processor time, since a busy machine says nothing of the program
    assert end.children_user - start.children_user < 0.5


def test_an_interrupt_from_outside_leaves_a_study_that_goes_on(study, tmp_path):
    study.write_text(STUDY.replace("trials = 2", "trials = 400").replace("6]", "6, 11, 22]"))
    command = [sys.executable, "-m", "tuner", "run", str(study), "--runs", str(tmp_path)]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # a shell's background job ignores interrupts, and its children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    journal = tmp_path / "cli" / "study.journal"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if journal.is_file() and journal.read_bytes().count(b"\n") > 30:
            break
        time.sleep(0.05)
    process.send_signal(2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "run the same command again" in err
    assert not (tmp_path / "cli" / "results.json").exists()
