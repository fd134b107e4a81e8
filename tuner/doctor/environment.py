"""What is installed: packages against the versions asked for, devices, attention, nouns."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from resprune.errors import ResPruneError
from resprune.nouns import EMBEDDED, NounExtractor
from tuner.doctor.schema import Finding, Level

PROJECT = "resprune-tune"
OPTIONAL = {
    "vllm": "serving with vLLM",
    "lmms-eval": "benchmarks of released models",
    "ray": "several model workers",
    "psycopg": "a study's storage in PostgreSQL",
    "triton": "a fused kernel of the selection on a GPU",
    "scikit-image": "programs under benchmarks/",
    "optuna-dashboard": "looking at a study's trials in a browser",
}
"""Packages that are not needed, and what they are for."""
SAMPLE = "What color is the small dog on the left of the table?"
_NOUNS = ["color", "dog", "left", "table"]
_BROUGHT = {"tokenizers": "transformers"}  # what they asked for, by whom
_GIB = 1 << 30


def look_around() -> Iterator[Finding]:
    """Say what is installed and what this machine has."""
    yield python()
    yield from packages()
    yield from optional_packages()
    yield from devices()
    yield attention()
    yield noun_pipeline()


def python() -> Finding:
    """Hold Python's version against the project's own."""
    found, wanted = platform.python_version(), metadata.metadata(PROJECT)["Requires-Python"]
    return _held("python", "python", found, SpecifierSet(wanted or ""))


def packages() -> Iterator[Finding]:
    """Hold what the project needs against what is installed."""
    yield Finding(
        area="packages", name=PROJECT, level="ok", text=f"{metadata.version(PROJECT)} (resprune)"
    )
    wanted = {one.name: one for one in _required(PROJECT) if _is_needed(one)}
    for name, owner in _BROUGHT.items():
        wanted |= {one.name: one for one in _required(owner) if one.name == name}
    for name, one in wanted.items():
        version = _version(name)
        if version is None:
            text = f"not installed; {one.specifier or 'any version'} is needed: pip install '{one}'"
            yield Finding(area="packages", name=name, level="problem", text=text)
        else:
            yield _held("packages", name, version, one.specifier)


def optional_packages() -> Iterator[Finding]:
    """Say which packages that are not needed are there."""
    asked = {one.name: one for one in _required(PROJECT) if not _is_needed(one)}
    for name, use in OPTIONAL.items():
        version = _version(name)
        if version is None:
            text = f"not installed; for {use}"
            yield Finding(area="optional", name=name, level="ok", text=text)
        else:
            specifier = asked[name].specifier if name in asked else SpecifierSet()
            yield _held("optional", name, version, specifier, worst="note")


def devices() -> Iterator[Finding]:
    """Say what torch can compute on, and with how much memory."""
    cores, threads = _cores(), torch.get_num_threads()
    asked = os.environ.get("OMP_NUM_THREADS")
    said = "OMP_NUM_THREADS is not set" if asked is None else f"OMP_NUM_THREADS={asked}"
    text = f"{platform.machine()}, cores: {cores}, threads of torch: {threads} ({said})"
    if threads > cores:
        text += "; more threads than cores wait for each other: lower OMP_NUM_THREADS"
    yield _device("CPU", "note" if threads > cores else "ok", text)
    free = _free_memory()
    if free is not None:
        yield _device("memory", "ok", f"{free / _GIB:.1f} GiB free")
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        left, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        text = f"{name}, {left / _GIB:.1f} of {total / _GIB:.1f} GiB free"
        yield _device(f"cuda:{number}", "ok", text)
    if not torch.cuda.is_available():
        build = "a build without CUDA" if torch.version.cuda is None else "one with CUDA"
        level: Level = "ok" if torch.version.cuda is None else "note"
        yield _device("GPU", level, f"torch sees none (torch {torch.__version__} is {build})")
    if torch.backends.mps.is_available():
        text = "there; device 'auto' takes a GPU or the CPU, write device = 'mps' to use it"
        yield _device("MPS", "note", text)


def attention() -> Finding:
    """Say which attention implementations a model can be loaded with."""
    from transformers.utils.import_utils import is_flash_attn_2_available

    names = ["eager"]
    if hasattr(torch.nn.functional, "scaled_dot_product_attention"):
        names.insert(0, "sdpa")
    text = ", ".join(names)
    if is_flash_attn_2_available():
        text += ", flash_attention_2"
    else:
        text += "; flash_attention_2 is not installed, sdpa is the default and needs nothing"
    return Finding(area="attention", name="implementations", level="ok", text=text)


def noun_pipeline() -> Finding:
    """Read a sample sentence with the noun pipeline in use."""
    try:
        extractor = NounExtractor()
        nouns = extractor.nouns(SAMPLE)
    except (ResPruneError, OSError, ImportError) as error:
        return Finding(area="nouns", name="pipeline", level="problem", text=str(error))
    found = ", ".join(nouns) or "nothing"
    text = f"{extractor.pipeline_name} {extractor.pipeline_version} reads {found} in {SAMPLE!r}"
    if extractor.pipeline_name == EMBEDDED:
        text += " (the embedded one; en_core_web_sm goes first where it is installed)"
    if "dog" not in nouns:
        text += "; the dog is missing, so relevance will be wrong: install another pipeline"
        return Finding(area="nouns", name="pipeline", level="problem", text=text)
    level: Level = "ok" if nouns == _NOUNS else "note"
    return Finding(area="nouns", name="pipeline", level=level, text=text)


def _held(
    area: str, name: str, version: str, wanted: SpecifierSet, worst: Level = "problem"
) -> Finding:
    """Hold a version against those allowed; releases to come count."""
    if wanted.contains(version, prereleases=True):
        text = f"{version} (wanted {wanted})" if str(wanted) else version
        return Finding(area=area, name=name, level="ok", text=text)
    text = f"{version}, and {wanted} is needed"
    if area != "python":
        text += f": pip install -U '{name}{wanted}'"
    return Finding(area=area, name=name, level=worst, text=text)


def _required(name: str) -> list[Requirement]:
    try:
        return [Requirement(line) for line in metadata.requires(name) or []]
    except metadata.PackageNotFoundError:
        return []


def _is_needed(one: Requirement) -> bool:
    return one.marker is None or one.marker.evaluate({"extra": ""})


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _device(name: str, level: Level, text: str) -> Finding:
    return Finding(area="devices", name=name, level=level, text=text)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free_memory() -> int | None:
    """Bytes that a new process could have; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else None
