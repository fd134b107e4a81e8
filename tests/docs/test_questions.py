"""'Questions that users ask': fifteen, each with a command that exists and the output it gives."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.main import get_command

from tuner import cli

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "questions.md"
VARYING = {6, 9}  # which tokens are kept is a matter of rounding on another processor


class Question(NamedTuple):
    """A question with its command and its output."""

    number: int
    text: str
    command: str
    output: str


def questions() -> list[Question]:
    found = []
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        number, title = re.match(r"(\d+)\. (.*\?)\n", section).groups()
        (command,) = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
        (output,) = re.findall(r"```text\n(.*?)```", section, re.DOTALL)
        found.append(Question(int(number), title, command, output))
    return found


QUESTIONS = questions()
PROGRAMS = [each for each in QUESTIONS if each.command.startswith("python - <<'EOF'\n")]
DOCTOR = [
    each
    for each in QUESTIONS
    if each.command.startswith("resprune-tune doctor ") and "--no-speed" in each.command
]


def commands(text):
    """Each resprune-tune command of a block, as arguments."""
    for line in re.findall(r"^resprune-tune ([^;|>\n]*)", text, re.MULTILINE):
        yield shlex.split(re.sub(r" 2$", "", line.strip()))


def test_fifteen_questions_each_with_a_command_and_its_output():
    assert [each.number for each in QUESTIONS] == list(range(1, 16))
    assert all(each.command.strip() and each.output.strip() for each in QUESTIONS)
    assert len(PROGRAMS) == 8
    assert len(DOCTOR) == 2


def test_the_commands_exist():
    known = get_command(cli.app).commands
    asked = [arguments for each in QUESTIONS for arguments in commands(each.command)]
    assert {arguments[0] for arguments in asked} == {"doctor", "plan"}
    for name, *arguments in asked:
        known[name].make_context(name, arguments)  # an unknown option is an error


def test_an_unknown_option_would_be_found():
    with pytest.raises(Exception, match="--bugdet"):
        get_command(cli.app).commands["doctor"].make_context("doctor", ["--bugdet", "3"])


@pytest.mark.parametrize("question", PROGRAMS, ids=lambda each: str(each.number))
def test_a_program_prints_what_the_page_says(question, capsys):
    if "from peft" in question.command:
        pytest.importorskip("peft")
    body = question.command.removeprefix("python - <<'EOF'\n").rstrip().removesuffix("EOF")
    with warnings.catch_warnings():
        exec(compile(body, f"question {question.number}", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    if question.number in VARYING:
        printed, expected = (re.sub(r"\d+", "N", text) for text in (printed, question.output))
        assert printed == expected
    else:
        assert printed == question.output


def test_flash_attention_is_about_the_same_tokens():
    (question,) = [each for each in QUESTIONS if each.number == 6]
    sdpa, eager = (line.split(" ", 1) for line in question.output.splitlines())
    assert (sdpa[0], eager[0]) == ("sdpa", "eager")
    assert sdpa[1] == eager[1]


@pytest.mark.parametrize("question", DOCTOR, ids=lambda each: str(each.number))
def test_the_doctor_says_what_the_page_says(question, capsys):
    (arguments,) = commands(question.command)
    with pytest.raises(SystemExit) as caught:
        cli.app(arguments)
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    said = [line for line in question.output.splitlines() if re.match(r"  \w+ +pruning ", line)]
    assert len(said) == 1
    assert said[0] in printed
    exits = re.findall(r"^exit (\d)$", question.output, re.MULTILINE)
    assert (caught.value.code or 0) == int(exits[0] if exits else 0)


def test_the_study_of_the_page_is_one(tmp_path):
    from tuner.study import load_study

    (question,) = [each for each in QUESTIONS if "fidelity" in each.command]
    body = re.search(r"<<'EOF'\n(.*?)EOF\n", question.command, re.DOTALL).group(1)
    (tmp_path / "study.toml").write_text(body, encoding="utf-8")
    assert load_study(tmp_path / "study.toml").task.metric == "fidelity"


def test_links_and_words_of_the_page():
    text = PAGE.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([\w./-]+\.md)", text):
        assert (PAGE.parent / target).is_file(), target
    assert "`attach`" in text
