"""The commands of 'Serve with vLLM' lead to a server, which answers as ``resprune.attach`` does."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.vllm import configs
from tests.vllm.harness import Asked, Oracle, pairs
from tests.vllm.test_equal import FAMILIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "vllm.md").read_text(encoding="utf-8")
_PYTHON = ".venv-vllm/bin/python"
BUDGETS = (41, 44, 90)  # adaptive, a method that replaces features, and one that reads no question


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: str, folder: Path, port: int) -> Iterator[Path]:
    """Run a server's shell command until it answers; gives its log."""
    log = folder / "server.log"
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "INFO"}
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    with log.open("w") as output:
        server = subprocess.Popen(
            ["bash", "-c", f"exec env {command}"],
            cwd=folder,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
        try:
            for _ in range(360):
                assert server.poll() is None, log.read_text()[-3000:]
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
                    break
                time.sleep(0.5)
            else:
                pytest.fail(log.read_text()[-3000:])
            yield log
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # the engine's process too
            server.wait()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the clone to the page's commands."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "studies").symlink_to(ROOT / "studies")
    (folder / ".venv-vllm" / "bin").mkdir(parents=True)
    (folder / _PYTHON).write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / _PYTHON).chmod(0o755)
    return folder


def test_the_pages_commands_lead_to_a_server(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, prepare, serve = blocks("bash")
    (ask,) = blocks("python")
    assert prepare.startswith("make serve-env\n")
    subprocess.run(["bash", "-ec", prepare.removeprefix("make serve-env\n")], cwd=place, check=True)
    port = free_port()
    with running(serve.replace("8000", str(port)), place, port) as log:
        assert "ResPrune active: 43 of 196 tokens an image" in log.read_text()
        monkeypatch.chdir(place)
        exec(compile(ask.replace("8000", str(port)), "vllm.md", "exec"), {})
        (printed,) = re.findall(r"It prints `(.*?)`", PAGE)
        assert capsys.readouterr().out.split() == printed.split() == ["yellow", "53"]
        status, _ = post(port, "What color is the star?", mm={"resprune_budget": 43})
        assert status == 400  # the operator did not allow it


def post(port: int, question: str, image: Any = None, mm: Any = None) -> tuple[int, Any]:
    """One chat request, with the token that begins the text as the model's processor gives it."""
    content: list[dict[str, Any]] = [{"type": "text", "text": question}]
    if image is not None:
        data = io.BytesIO()
        image.save(data, "PNG")
        url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    body = {
        "model": "nano-llava",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 4,
        "temperature": 0,
        "add_special_tokens": True,
        **({} if mm is None else {"mm_processor_kwargs": mm}),
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_server_answers_as_attach_does(
    place: Path, name: str, folders: dict[str, Path]
) -> None:
    asked, oracle = pairs(name), Oracle(folders[name])
    config = configs.config(*FAMILIES[name], [each.question for each in asked])
    config.save_pretrained(place / "serve-config")
    port = free_port()
    serve = blocks("bash")[2].strip().replace("8000", str(port))
    serve = serve.replace("studies/nano/weights/nano-llava", str(folders[name]))
    with (
        running(f"{serve} --trust-request-mm-kwargs", place, port),
        ThreadPoolExecutor(8) as pool,
    ):
        for budget in (None, *BUDGETS):
            mm = None if budget is None else {"resprune_budget": budget}

            def answer(each: Asked, mm: Any = mm) -> tuple[int, Any]:
                return post(port, each.question, each.images[0], mm)

            replies = list(pool.map(answer, asked))
            expected = oracle.answers(asked, config, budget)
            assert [status for status, _ in replies] == [200] * len(asked)
            found = [reply["choices"][0]["message"]["content"] for _, reply in replies]
            decode = oracle.processor.tokenizer.decode
            texts = [decode(ids, skip_special_tokens=True) for ids in expected.ids]
            assert [text.strip() for text in found] == [text.strip() for text in texts]
            lengths = [reply["usage"]["prompt_tokens"] for _, reply in replies]
            assert lengths == expected.lengths
        status, body = post(port, asked[0].question, asked[0].images[0], {"resprune_budget": 7})
        assert status == 400
        assert "budget 7 is not in the pruning config; it lists" in body["error"]["message"]
        assert post(port, asked[0].question, asked[0].images[0])[0] == 200
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
            text = reply.read().decode()
    counted = re.search(r"^resprune:visual_tokens_kept_total (\S+)", text, re.MULTILINE)
    assert counted is not None
    assert float(counted[1]) >= 32 * (43 + sum(BUDGETS))
