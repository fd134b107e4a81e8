"""A served model in this process beside the same model under ``resprune.attach``."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import resprune
from resprune import PruningConfig
from resprune.processors import load_processor
from studies.nano import model_dir
from studies.nano.scenes import generate_scene, generate_wide_scene
from studies.nano.splits import iter_questions

NEW_TOKENS = 4
ENGINE = {
    "enforce_eager": True,
    "dtype": "float32",
    "block_size": 32,
    "limit_mm_per_prompt": {"image": 3},
    "disable_log_stats": True,
}


@dataclass(frozen=True)
class Asked:
    """A question about one image, or several."""

    question: str
    images: tuple[Image.Image, ...]


def pairs(name: str, images: int = 16, each: int = 2) -> list[Asked]:
    """Questions about scenes of the monitor split, ``each`` an image."""
    scene = generate_wide_scene if name == "nano-llava-next" else generate_scene
    found = []
    for index in range(images):
        asked = iter_questions("monitor", each, offset=8 * index, scene=scene)
        image = scene(asked[0].scene_seed).image
        found += [Asked(question.text, (image,)) for question in asked]
    return found


def served_folder(name: str, folder: Path) -> Path:
    """The embedded model as vLLM can serve it.

    nano-qwen2.5-vl gets the rotary base that vLLM computes every such tower with (so it answers
    otherwise than the shipped one), and the settings of a video processor, which vLLM loads.
    """
    if name != "nano-qwen2.5-vl":
        return model_dir(name)
    copy = folder / name
    shutil.copytree(model_dir(name), copy)
    config = json.loads((copy / "config.json").read_text())
    config["vision_config"]["rope_parameters"]["rope_theta"] = 10000.0
    (copy / "config.json").write_text(json.dumps(config))
    image = json.loads((copy / "processor_config.json").read_text())["image_processor"]
    video = {**image, "video_processor_type": "Qwen2VLVideoProcessor"}
    video.pop("image_processor_type")
    (copy / "video_preprocessor_config.json").write_text(json.dumps(video))
    return copy


@dataclass
class Served:
    """A vLLM engine in this process.

    Attributes:
        llm: The engine.
        model: Its model.
        kept: Kept indices of each image in the order of encoding.
        cached: Tokens that each prompt of the last call found in the prefix cache.
    """

    llm: Any
    model: Any
    kept: list[list[int]] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)

    def ask(
        self, prompts: Sequence[Mapping[str, Any]], tokens: int = NEW_TOKENS
    ) -> tuple[list[list[int]], list[int]]:
        """Generated ids of each prompt, and the lengths of the prompts."""
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0, max_tokens=tokens)
        outputs = self.llm.generate(list(prompts), sampling, use_tqdm=False)
        ids = [list(output.outputs[0].token_ids) for output in outputs]
        self.cached = [output.num_cached_tokens for output in outputs]
        return ids, [len(output.prompt_token_ids) for output in outputs]

    def seen(self) -> list[list[int]]:
        """Kept indices since the last time asked."""
        found, self.kept[:] = list(self.kept), []
        return found

    def forget(self) -> None:
        """Empty every cache: of processed images, of encoded ones, of prefixes."""
        self.llm.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()
        self.llm.reset_prefix_cache()


@contextmanager
def serve(folder: Path, config: Any = None, **engine: Any) -> Iterator[Served]:
    """Serve a model with a pruning config; without one as vLLM does."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    content = config_files(config) if isinstance(config, PruningConfig) else config
    overrides = {} if content is None else {"hf_overrides": {"resprune": content}}
    llm = LLM(str(folder), **{**ENGINE, **overrides, **engine})
    model = llm.llm_engine.model_executor.driver_worker.worker.get_model()
    served = Served(llm, model)
    if config is not None:
        _watch(model._selecting, served)
    try:
        yield served
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm, model, served
        cleanup_dist_env_and_memory()
        gc.collect()


def _watch(selecting: Any, served: Served) -> None:
    inner = selecting.plans

    def plans(*args: Any) -> Any:
        found = inner(*args)
        served.kept += [plan.kept.tolist() for plan in found]
        return found

    selecting.plans = plans


def config_files(config: PruningConfig) -> dict[str, Any]:
    """The files of a config by name, as ``hf_overrides`` takes them."""
    files: dict[str, Any] = {"pruning_config.json": config.to_dict()}
    if config.predictor is not None:
        files["alpha_predictor.json"] = config.predictor.to_dict()
    return files


@dataclass
class Expected:
    """What prompts give under ``attach``.

    Attributes:
        ids: Generated ids of each prompt.
        lengths: Length of each shortened prompt.
        kept: Kept indices of each image.
        settings: Setting of each image.
        outside: Whether each image's prompt is unlike those of the predictor.
    """

    ids: list[list[int]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    kept: list[list[int]] = field(default_factory=list)
    settings: list[Any] = field(default_factory=list)
    outside: list[bool] = field(default_factory=list)


class Oracle:
    """The model in transformers under ``resprune.attach``."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForImageTextToText

        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.processor = load_processor(str(folder))

    def prompt(self, asked: Asked) -> str:
        """One user turn."""
        content = [{"type": "image"}] * len(asked.images)
        turns = [{"role": "user", "content": [*content, {"type": "text", "text": asked.question}]}]
        return str(self.processor.apply_chat_template(turns, add_generation_prompt=True))

    def served(self, asked: Asked, **arguments: Any) -> dict[str, Any]:
        """The prompt as vLLM takes it."""
        prompt = {
            "prompt": self.prompt(asked),
            "multi_modal_data": {"image": list(asked.images)},
        }
        return {**prompt, "mm_processor_kwargs": arguments} if arguments else prompt

    @torch.no_grad()
    def prepared(self, asked: Asked, config: PruningConfig, budget: Any) -> Any:
        """The model's inputs that ``attach`` makes of a prompt."""
        inputs = self.processor(
            images=list(asked.images), text=self.prompt(asked), return_tensors="pt"
        )
        found = []
        with resprune.attach(self.model, self.processor, config) as attached:
            prepare = attached.backbone.prepare

            def recording(*arguments: Any, **options: Any) -> Any:
                found.append(prepare(*arguments, **options))
                return found[-1]

            attached.backbone.prepare = recording
            self.model.generate(**inputs, max_new_tokens=1, budget=budget)
        return found[0]

    @torch.no_grad()
    def answers(
        self, asked: Sequence[Asked], config: PruningConfig | None, budget: Any = None
    ) -> Expected:
        """What the model does under ``attach``, one prompt at a time."""
        found = Expected()
        attached = config and resprune.attach(self.model, self.processor, config)
        given = {} if budget is None else {"budget": budget}
        for each in asked:
            inputs = self.processor(
                images=list(each.images), text=self.prompt(each), return_tensors="pt"
            )
            output = self.model.generate(
                **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, **given
            )
            found.ids.append(output[0, inputs["input_ids"].shape[1] :].tolist())
            found.lengths.append(inputs["input_ids"].shape[1])
            if attached and attached.last.pruned:
                found.lengths[-1] = len(attached.last.kept_positions[0])
                found.kept += [kept.tolist() for kept in attached.last.kept]
                found.settings += attached.last.settings
                found.outside += attached.last.outside
        if attached:
            attached.detach()
        return found
