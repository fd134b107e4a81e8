"""What of a pruning config vLLM can serve, found out without vLLM."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig

from resprune import Energy, PruningConfig, Setting
from resprune.errors import ConfigError, UnsupportedModelError
from resprune.serving import vllm as plugin
from resprune.serving.vllm import guard
from resprune.serving.vllm.families import FAMILIES
from resprune.serving.vllm.settings import checked_config, digest, read_config
from studies.nano import model_dir
from tests.vllm.configs import config as every_policy

LLAVA, QWEN = "LlavaForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"
OWN = {"alpha": 0.75, "positions": "compact"}


def with_config(content: Any, name: str = "nano-llava") -> Any:
    found = AutoConfig.from_pretrained(model_dir(name))
    found.resprune = content
    return found


def table(*policies: Any, **fields: Any) -> dict[str, Any]:
    data = {"default": policies[0].budget, "table": list(policies), **fields}
    return PruningConfig.from_dict(data).to_dict()


def test_a_folder_is_read_once(tmp_path: Path) -> None:
    config = every_policy("llava", "cls_attention", "compact", ["What color is the star?"])
    config.save_pretrained(tmp_path)
    hf_config = with_config(str(tmp_path))
    assert read_config(hf_config).to_dict() == config.to_dict()
    shutil.rmtree(tmp_path)
    again = read_config(hf_config)  # its content is in the model's config now
    assert again.to_dict() == config.to_dict()
    assert again.predictor is not None
    assert again.predictor.to_dict() == config.predictor.to_dict()  # type: ignore[union-attr]


def test_the_content_alone_is_a_config() -> None:
    config = PruningConfig.single(43, **OWN)
    assert checked_config(with_config(config.to_dict()), LLAVA) == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (7, "hf_overrides.resprune is int"),
        ("no/such/folder", "no/such/folder"),
        ({"default": 3}, "table"),
        ({"pruning_config.json": {}, "a.json": {}, "b.json": {}}, "at most one predictor"),
        (table(Setting.of("resprune", Energy(energy=0.1, most=98), **OWN)), "follows the image's"),
        (table(Setting.of("fastv", 43)), "does not act on the tokens"),
        (table(Setting.of("resprune", 98, **OWN).then("fastv", 43)), "does not act on the tokens"),
        (table(Setting.of("downsample", 0.25, positions="compact")), "does not act on the tokens"),
        (table(Setting.of("resprune", 43)), "positions 'keep', and vLLM counts positions without"),
        (
            table(
                Setting.of("l2_norm", 43, **{"positions": "compact"}), backbone={"family": "gemma3"}
            ),
            "gemma3",
        ),
        (
            table(
                Setting.of("l2_norm", 43, positions="compact"),
                backbone={"family": "llava", "width": 7},
            ),
            "width 7",
        ),
        (
            table(
                Setting.of("cdpruner", 43, positions="compact"),
                backbone={"family": "llava", "text_model": "openai/clip"},
            ),
            "text model 'openai/clip'",
        ),
    ],
)
def test_what_cannot_be_served_is_refused(content: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked_config(with_config(content), LLAVA)


def test_a_signal_that_the_tower_does_not_give_is_refused() -> None:
    content = table(Setting.of("resprune", 43, seed_strategy="received_attention", **OWN))
    with pytest.raises(UnsupportedModelError, match="received_attention"):
        checked_config(with_config(content), LLAVA)


def test_models_and_families_are_refused_by_name() -> None:
    keep = table(Setting.of("resprune", 43, alpha=0.75))
    with pytest.raises(UnsupportedModelError, match="does not serve Gemma3"):
        checked_config(with_config(keep), "Gemma3ForConditionalGeneration")
    qwen = with_config(keep, "nano-qwen2.5-vl")
    with pytest.raises(UnsupportedModelError, match="rotary base 4 and vLLM"):
        checked_config(qwen, QWEN)
    qwen.vision_config.rope_parameters["rope_theta"] = 10_000.0
    assert checked_config(qwen, QWEN).default.count == 43
    qwen.resprune = table(Setting.of("resprune", 43, **OWN))
    with pytest.raises(ConfigError, match="before the image is encoded"):
        checked_config(qwen, QWEN)
    pixtral = with_config(table(Setting.of("l2_norm", 43, positions="compact")))
    pixtral.vision_config.model_type = "pixtral"
    with pytest.raises(UnsupportedModelError, match="'pixtral' vision tower"):
        checked_config(pixtral, LLAVA)


def test_a_digest_tells_selections_apart_and_nothing_else() -> None:
    first, second = Setting.of("resprune", 43, **OWN), Setting.of("resprune", 22, **OWN)
    geometry = Setting.of("resprune", 43, alpha=0.0, positions="compact")

    def of(policy: Setting, *others: Setting, **nouns: Any) -> str:
        data = {"default": policy.budget, "table": [policy, *others], "nouns": nouns}
        config = PruningConfig.from_dict(data)
        return digest(config, config.policy(policy.budget))

    assert of(first) == of(first, second)
    assert len({of(first), of(second), of(geometry), of(first, compounds=True)}) == 4
    assert of(geometry) == of(geometry, compounds=True)  # it reads no nouns


# -- what vLLM is told ----------------------------------------------------------------------


class Registry:
    """A stand-in for ``ModelRegistry``."""

    def __init__(self) -> None:
        self.registered: dict[str, str] = {}

    def register_model(self, architecture: str, target: str) -> None:
        self.registered[architecture] = target

    def inspect_model_cls(self, architectures: Any, model_config: Any) -> Any:
        return "found", architectures[0]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    fake: Any = ModuleType("vllm")
    fake.ModelRegistry, fake.__version__ = Registry(), "0.32.0+cpu"
    monkeypatch.setitem(sys.modules, "vllm", fake)
    said: list[str] = []
    logger: Any = ModuleType("vllm.logger")
    logger.init_logger = lambda _: SimpleNamespace(warning=lambda *text: said.append(text[0]))
    monkeypatch.setitem(sys.modules, "vllm.logger", logger)
    fake.ModelRegistry.said = said
    guard.check_version.cache_clear()
    return fake.ModelRegistry


def test_the_families_are_registered(registry: Registry) -> None:
    plugin.register()
    plugin.register()  # once a process is not promised
    assert registry.registered == {
        architecture: f"resprune.serving.vllm.served:{architecture}" for architecture in FAMILIES
    }
    config = SimpleNamespace(hf_config=SimpleNamespace())
    assert registry.inspect_model_cls(["Gemma3"], config) == ("found", "Gemma3")
    assert not registry.said  # type: ignore[attr-defined]


def test_an_architecture_that_is_not_served_is_refused_when_a_config_is_named(
    registry: Registry,
) -> None:
    plugin.register()
    content = table(Setting.of("resprune", 43, **OWN))
    config = SimpleNamespace(hf_config=with_config(content))
    with pytest.raises(UnsupportedModelError, match="does not serve Gemma3"):
        registry.inspect_model_cls(["Gemma3"], config)
    # the served class needs vLLM's own, which this stand-in does not have: a changed seam
    with pytest.raises(ConfigError, match="not as this resprune knows it"):
        registry.inspect_model_cls([LLAVA], config)


def test_another_version_is_a_warning_that_names_the_tested(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["vllm"], "__version__", "9.9.9", raising=False)
    guard.check_version()
    guard.check_version()
    assert len(registry.said) == 1  # type: ignore[attr-defined]
    guard.check_version.cache_clear()


def test_a_registry_without_the_lookup_is_a_warning(registry: Registry) -> None:
    fake = SimpleNamespace()
    guard.guard(fake)
    assert len(registry.said) == 1  # type: ignore[attr-defined]


def test_the_entry_point_imports_nothing_until_vllm_asks() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    (point,) = project["project"]["entry-points"]["vllm.general_plugins"].values()
    assert point == "resprune.serving.vllm:register"
    code = (
        "import sys, resprune.serving.vllm as plugin; plugin.register; "
        "print([n for n in ('torch', 'transformers', 'vllm', 'spacy') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
