"""The commands of 'Serve without vLLM' lead to an answer."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from resprune import PruningConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "serve.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl, as the page does")
def test_the_pages_commands_lead_to_an_answer(tmp_path: Path) -> None:
    start, ask, load = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    serve = start.splitlines()[-1]  # after the installation and the study
    assert serve.startswith("python -m examples.server")
    (tmp_path / "studies").symlink_to(ROOT / "studies")
    PruningConfig.single(22, alpha=0.75).save_pretrained(
        tmp_path / "runs" / "nano-llava" / "config"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    command = ["bash", "-c", f"exec {serve} --port {port}"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(240):
            assert server.poll() is None, (tmp_path / "log").read_text()
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz")
                break
            time.sleep(0.25)

        def run(command: str) -> str:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            return done.stdout.splitlines()[-1]

        reply = json.loads(run(ask.replace("8000", str(port))))
        small = "--budgets 22 --requests 4 --rounds 1 --concurrency 2"
        small += f" --url http://127.0.0.1:{port}"
        row = run(re.sub(r"--budgets 1\.0 98 22 --requests 64", small, load))
    finally:
        server.terminate()
        server.wait()
    assert reply["answer"] == "yellow"  # the scene's one star
    assert reply["record"]["kept_tokens"] == [22]
    in_flight, budget, *_, errors = (cell.strip() for cell in row.strip("|").split("|"))
    assert (in_flight, budget, errors) == ("2", "22", "0")
