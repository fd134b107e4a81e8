"""The registry, installed packages that join it, and ResPrune against the reference."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from resprune import methods
from resprune.errors import ConfigError, ResPruneError
from resprune.methods import Inputs, base
from resprune.setting import Setting
from resprune.subspace import reference_order
from resprune.testing.methods import MethodCase

PACKAGE = """
from resprune.methods import Method, Selection, register
from resprune.options import Options

class LastOptions(Options):
    stride: int = 1

@register
class Last(Method[LastOptions]):
    name = "last"
    options = LastOptions

    def select(self, image, k, options):
        raise NotImplementedError
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages, with the registry as if nothing had been asked of it."""
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(base._METHODS)
    base._load_installed.cache_clear()
    yield tmp_path
    base._METHODS.clear()
    base._METHODS.update(before)
    base._load_installed.cache_clear()
    for name in ("lastpkg", "brokenpkg"):
        sys.modules.pop(name, None)


def install(site: Path, package: str, source: str, *points: str) -> None:
    (site / f"{package}.py").write_text(source)
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = "\n".join(["[resprune.methods]", *points])
    (info / "entry_points.txt").write_text(f"{lines}\n")


def test_a_setting_that_names_an_installed_method_loads(site: Path) -> None:
    install(site, "lastpkg", PACKAGE, "last = lastpkg")
    text = '{"method": "last", "options": {"stride": 3}, "budget": {"count": 5}}'
    setting = Setting.model_validate_json(text)
    assert setting == Setting.of("last", 5, stride=3)
    assert type(setting.options).__module__ == "lastpkg"


def test_installed_methods_are_listed_and_loaded_once(site: Path) -> None:
    install(site, "lastpkg", PACKAGE, "last = lastpkg:Last")
    assert "lastpkg" not in sys.modules
    methods.get("resprune")  # a known name asks no package
    assert "lastpkg" not in sys.modules
    assert "last" in methods.names()
    (site / "lastpkg.py").unlink()
    assert "last" in methods.names("tokens")


@pytest.mark.parametrize(
    ("source", "point", "error"),
    [
        ("raise RuntimeError('no licence')", "bad = brokenpkg", "RuntimeError: no licence"),
        ("", "bad = brokenpkg:Missing", "AttributeError"),
        ("", "bad = nopkg", "ModuleNotFoundError"),
        (PACKAGE.replace('"last"', '"scope"'), "bad = brokenpkg", "'scope' is taken by Scope"),
    ],
)
def test_a_broken_entry_point_is_a_warning(site: Path, source: str, point: str, error: str) -> None:
    install(site, "brokenpkg", source, point)
    install(site, "lastpkg", PACKAGE, "last = lastpkg")
    with pytest.warns(UserWarning, match=f"entry point bad = .*{error}"):
        assert "last" in methods.names()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(methods.get("scope")).__module__ == "resprune.methods.scope"
        methods.names()


def test_unknown_names_suggest_near_ones(site: Path) -> None:
    with pytest.raises(ResPruneError, match=r"Did you mean 'resprune'.*entry-point group"):
        methods.get("resprun")
    with pytest.raises(ResPruneError, match="unknown method 'resprun'"):
        Setting.of("resprun", 5)


def test_a_name_cannot_be_taken_twice() -> None:
    class Scope(type(methods.get("scope"))):  # type: ignore[misc]
        """Has even the class's name."""

    Scope.__qualname__ = "Scope"
    with pytest.raises(ResPruneError, match="taken"):
        methods.register(Scope)
    methods.register(type(methods.get("scope")))  # the same class again is no other


@pytest.mark.parametrize("name", methods.names())
def test_an_unknown_option_names_near_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'nonsense'\. .*Allowed: "):
        Setting.of(name, 1.0, nonsense=1)


def test_resprune_is_the_reference_with_weights_and_seed() -> None:
    method = methods.get("resprune")
    image = MethodCase(method).image(tokens=30, seed=5)
    assert image.relevance is not None
    seed = int(image.signals["cls_attention"].argmax())
    options = method.options(alpha=1.5, seed_strategy="cls_attention")
    expected = reference_order(image.tokens, image.relevance**1.5, 12, seed).tolist()
    assert method.select(image, 12, options).indices.tolist() == expected


def test_resprune_at_alpha_zero_needs_no_relevance() -> None:
    method = methods.get("resprune")
    tokens = torch.randn(30, 12, generator=torch.Generator().manual_seed(6))
    options = method.options(alpha=0.0, seed_strategy="none")
    found = method.select(Inputs(tokens), 12, options)
    assert found.indices.tolist() == reference_order(tokens, torch.ones(30), 12).tolist()
