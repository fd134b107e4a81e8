"""A certificate against changes: of each of its values, and of the policies that it is about."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from resprune import PruningConfig, certificate
from resprune.budget import Count
from resprune.certificate import Certificate, CertifySplit, Claim, policy_digest
from resprune.errors import ConfigError
from resprune.setting import Setting

SETTINGS = [Setting.of("resprune", count, alpha=0.5) for count in (43, 22)]


def outcome(setting: Setting, certified: bool) -> certificate.Tested:
    return certificate.Tested(
        budget=setting.budget,
        tokens=40,
        loss=0.005,
        p_value=0.01,
        certified=certified,
        policy=policy_digest(setting, None),
        worse=5,
        better=2,
        margins=(0.25, -0.5),
    )


CERTIFICATE = Certificate.sealed(
    claim=Claim(loss=0.02),
    test="exact",
    metric="score",
    clip=-6.0,
    split=CertifySplit(name="certify", offset=3, samples=600, images=600, questions_per_image=1),
    attempt=1,
    order=tuple(map(outcome, SETTINGS, (True, False))),
    choices="0" * 32,
)
OTHER = {"absolute": "relative", "exact": "betting"}


def leaves(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(data, dict | list):
        for key in data if isinstance(data, dict) else range(len(data)):
            yield from leaves(data[key], (*path, key))
    else:
        yield path


def another(value: Any) -> Any:
    """A value as good as this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return OTHER.get(value, value[:-1] + "1")
    return value + 1 if isinstance(value, int) else value / 2


@pytest.mark.parametrize("path", leaves(CERTIFICATE.model_dump(mode="json")), ids=str)
def test_no_value_can_be_changed(path: tuple[Any, ...]) -> None:
    data = json.loads(CERTIFICATE.model_dump_json())
    assert Certificate.model_validate(data) == CERTIFICATE
    place = data
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = another(place[path[-1]])
    with pytest.raises(ValidationError, match=r"does not match the certificate's numbers"):
        Certificate.model_validate(data)


def test_nothing_can_be_left_out_of_the_order() -> None:
    data = CERTIFICATE.model_dump(mode="json")
    data["order"] = data["order"][:1]
    with pytest.raises(ValidationError, match="does not match"):
        Certificate.model_validate(data)


def config(*settings: Setting) -> PruningConfig:
    table = [setting.model_dump(mode="json") for setting in settings]
    sealed = CERTIFICATE.model_dump(mode="json")
    return PruningConfig.from_dict(
        {"default": table[0]["budget"], "table": table, "certificate": sealed}
    )


def test_a_config_carries_the_certificate_of_its_own_policies() -> None:
    assert config(*SETTINGS).certificate == CERTIFICATE
    assert config(SETTINGS[0]).certificate == CERTIFICATE  # fewer rows change no policy
    assert config(*SETTINGS, SETTINGS[0].at(Count(count=11))).certificate == CERTIFICATE


@pytest.mark.parametrize("changes", [{"alpha": 0.55}, {"seed_strategy": "relevance"}])
def test_another_policy_does_not_pass_for_the_certified_one(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"budget 22 is not the one that\s+was certified"):
        config(SETTINGS[0], SETTINGS[1].with_options(**changes))
