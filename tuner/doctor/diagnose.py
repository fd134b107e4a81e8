"""The whole diagnosis: the machine, and a model where one is named."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from PIL import Image

from resprune.backbones import Backbone
from resprune.budget import BudgetLike
from resprune.config import PruningConfig
from resprune.errors import ResPruneError, StudyError
from resprune.version import __version__
from studies import nano
from studies.nano.example import QUESTION, example_image
from tuner.doctor.active import examine
from tuner.doctor.environment import look_around
from tuner.doctor.schema import Activity, Diagnosis, Finding
from tuner.doctor.speed import measure_speed
from tuner.doctor.storage import look_at_storage
from tuner.doctor.words import certificate_text, say_activity
from tuner.efficiency.measure import ImagePrompt
from tuner.efficiency.runs import default_settings
from tuner.imagefile import open_image
from tuner.predict import load_model
from tuner.scoring.visual import processed

BUDGET = 0.111
"""Without a config: the least share of the paper's budgets, 64 of 576 tokens."""
EDGE = 672
"""Edge in pixels of the picture that a model of real size is shown."""


class Patient(NamedTuple):
    """A model and what is done to it.

    Attributes:
        name: The model's name.
        backbone: The model.
        config: A config whose default is the budget that is looked at.
        prompt: What it is asked.
    """

    name: str
    backbone: Backbone
    config: PruningConfig
    prompt: ImagePrompt


def diagnose(
    config_dir: Path | None = None,
    model: str | None = None,
    budget: BudgetLike | None = None,
    image: Path | None = None,
    *,
    question: str | None = None,
    runs: Path = Path("runs"),
    speed: bool = True,
) -> Diagnosis:
    """Look at the machine, and at a model where a config or a model is named.

    Args:
        config_dir: An exported config.
        model: Embedded model, folder or hub id; the config's own by default.
        budget: Budget of one of the config's policies; without a config any.
        image: An image file; a made-up scene by default.
        question: What is asked about it; the example's question by default.
        runs: Folder of run folders.
        speed: Whether the speed is measured.

    Raises:
        ResPruneError: A config, model, budget or image that cannot be used. What goes wrong when
            they are put together is a finding instead.
    """
    patient = _admitted(config_dir, model, budget, image, question)
    findings = [*look_around(), *look_at_storage(runs)]
    activity = None
    if patient is not None:
        try:
            activity = look_at(patient, speed=speed)
        except (ResPruneError, RuntimeError, NotImplementedError) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            findings.append(Finding(area="pruning", name="pruning", level="problem", text=text))
        else:
            findings += say_activity(activity, patient.config)
    return Diagnosis(
        version=__version__,
        problems=sum(finding.level == "problem" for finding in findings),
        findings=tuple(findings),
        activity=activity,
    )


def look_at(patient: Patient, *, speed: bool = True) -> Activity:
    """Run the prompt with and without pruning, and measure the speed where pruning is active."""
    backbone, config, prompt = patient.backbone, patient.config, patient.prompt
    inputs = processed(backbone, [[prompt.image]], [prompt.text])
    found = examine(
        backbone, config, inputs, model=patient.name, certificate=certificate_text(config)
    )
    if not (speed and found.active):
        return found
    measured = measure_speed(backbone, prompt, config.policy(), config.predictor, patient.name)
    return found.model_copy(update={"speed": measured})


def _admitted(
    config_dir: Path | None,
    model: str | None,
    budget: BudgetLike | None,
    image: Path | None,
    question: str | None,
) -> Patient | None:
    """Load what is named; None where nothing is."""
    if config_dir is None and model is None:
        for name, value in (("budget", budget), ("image", image), ("question", question)):
            if value is not None:
                raise StudyError(f"--{name} is about a model; name a config or --model")
        return None
    picture = None if image is None else open_image(image)
    config = None if config_dir is None else PruningConfig.from_pretrained(config_dir)
    if config is not None:
        config = config.model_copy(update={"default": config.policy(budget).budget})
        backbone = load_model(config, model, str(config_dir))
    else:
        backbone, config = _with_defaults(str(model), BUDGET if budget is None else budget)
    name = model or (config.backbone.id if config.backbone else None) or ""
    asked = backbone.chat_prompt((question or "").strip() or QUESTION)
    return Patient(name, backbone, config, ImagePrompt(picture or _scene(name), asked))


def _with_defaults(model: str, budget: BudgetLike) -> tuple[Backbone, PruningConfig]:
    """Load a model; its config is ResPrune with the family's defaults."""
    from tuner.scoring.model import load_backbone
    from tuner.study import BackboneSection

    if not model.strip():
        raise StudyError("--model is empty; give an embedded model, a folder or a hub id")
    backbone = load_backbone(BackboneSection(model=model))
    (setting,) = default_settings(backbone, ["resprune"], [budget])
    data = {"default": setting.budget, "table": [setting]}
    return backbone, PruningConfig.from_dict(data)


def _scene(model: str) -> Image.Image:
    """Make the picture: an embedded model's own example, or one of a usual size."""
    name = Path(model).name
    if name in nano.model_names():
        return example_image(name)
    return example_image().resize((EDGE, EDGE), Image.Resampling.BICUBIC)
