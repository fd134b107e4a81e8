"""The ``[task]`` table of a study file alone: data for a config that exists already."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError, create_model

from resprune.errors import StudyError, near_names
from resprune.validation import explain
from tuner import tasks
from tuner.study.file import read_toml, tuples
from tuner.study.schema import SplitSpec
from tuner.tasks import TaskOptions

_OTHER_PARTS = ("tune", "fit", "report")


def load_task(path: Path) -> tuple[TaskOptions, SplitSpec]:
    """Read the task and its certify split from a study file, or a file with ``[task]`` alone.

    Args:
        path: A TOML file.

    Returns:
        The task's options, and the split; folders of it are resolved against the file.

    Raises:
        StudyError: Unreadable, or wrong; the message names the file, key and fix.
    """
    table = read_toml(path).get("task")
    name = table.get("name") if isinstance(table, dict) else None
    if not isinstance(table, dict) or not isinstance(name, str):
        raise StudyError(f"{path}: task.name is missing. {near_names('', tasks.names())}")
    options = tasks.find(name).options
    schema = create_model("TaskFile", __base__=options, certify=(SplitSpec, ...))
    own = {key: value for key, value in table.items() if key not in _OTHER_PARTS}
    if "certify" not in own:
        raise StudyError(
            f"{path}: task.certify is missing; name the samples to test the claim on: certify = "
            "{split = ..., samples = 600, questions_per_image = 1}"
        )
    try:
        found = schema.model_validate(tuples(own), context={"base": path.parent})
    except ValidationError as error:
        raise StudyError(f"{path}: task: {explain(error, schema)}") from None
    spec: SplitSpec = found.certify  # type: ignore[attr-defined]
    return options.model_validate(found.model_dump(exclude={"certify"})), spec
