"""The certificate of a study: what is claimed, how it was tested, and the numbers to test it again.

A certificate is plain data. `tuner.certificate` computes one, and computes it again from its own
numbers.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from resprune.alpha import AlphaPredictor
from resprune.budget import Budget
from resprune.setting import Adaptive, Setting
from resprune.validation import StrictModel

TestName = Literal["exact", "betting", "t"]
Scale = Literal["absolute", "relative"]
_Count = Annotated[int, Field(ge=0)]
_Digest = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class Claim(StrictModel):
    """The mean score falls by less than ``loss`` against the unpruned model.

    Attributes:
        loss: Greatest loss, exclusive: of the score itself, or as a share of the unpruned score.
        confidence: Probability, at least, of not certifying where the claim is false.
        scale: ``absolute`` (0.02 is two points) or ``relative`` (2 % of the unpruned score).
    """

    loss: float = Field(gt=0.0, lt=1.0)
    confidence: float = Field(default=0.95, gt=0.0, lt=1.0)
    scale: Scale = "absolute"


class CertifySplit(StrictModel):
    """The samples that the claim was tested on.

    Attributes:
        name: Name of the task's split.
        offset: Samples of it that were skipped.
        samples: How many questions.
        images: How many images.
        questions_per_image: Questions of one image at most (M).
    """

    name: str
    offset: int = Field(ge=0)
    samples: int = Field(ge=1)
    images: int = Field(ge=1)
    questions_per_image: int = Field(ge=1)


class Tested(StrictModel):
    """One policy of the order, with what it gave on the certify split.

    Attributes:
        budget: Its budget in the table.
        tokens: Mean count of visual tokens it keeps on the tune split.
        loss: Mean loss on the certify split, in units of the claim; None where it was not tested.
        p_value: Of the claim's opposite (``betting``: 1 over the largest wealth); None where it
            was not tested.
        certified: Whether it passed.
        policy: Digest of the policy (``policy_digest``), so that another one does not pass for it.
        worse: Images whose right answer turned wrong (``exact`` and ``t``).
        better: Images whose wrong answer turned right (``exact`` and ``t``).
        margins: Of each image in the order drawn, how far its loss exceeds the claim's
            (``betting`` and ``t``), shape (images,).
    """

    budget: Budget
    tokens: int = Field(ge=1)
    loss: float | None = None
    p_value: float | None = Field(default=None, ge=0.0, le=1.0)
    certified: bool = False
    policy: _Digest | None = None
    worse: _Count | None = None
    better: _Count | None = None
    margins: tuple[float, ...] = Field(default=(), strict=False)


class Certificate(StrictModel):
    """A claim and how each policy fared, in the order of testing.

    Attributes:
        claim: What is promised.
        test: How it was tested.
        metric: The metric whose mean is meant.
        clip: Where an unbounded metric was cut off from below, else None.
        split: What it was tested on.
        attempt: Which opening of a certify split in this study it is, from 1.
        order: Policies in the order fixed before the split was opened; testing stopped at the
            first that failed.
        choices: Digest of everything chosen before the split was opened.
        digest: Digest of all of the above.
    """

    claim: Claim
    test: TestName
    metric: str
    clip: float | None = None
    split: CertifySplit
    attempt: int = Field(ge=1)
    order: tuple[Tested, ...] = Field(min_length=1, strict=False)
    choices: _Digest
    digest: _Digest

    @classmethod
    def sealed(cls, **fields: Any) -> Self:
        """Make a certificate, its digest computed.

        Args:
            **fields: Every field but ``digest``.
        """
        unsealed = cls.model_construct(**fields)
        return cls(**fields, digest=unsealed.own_digest())

    def own_digest(self) -> str:
        """Return the digest of everything but ``digest``."""
        return digest_of(self.model_dump(mode="json", exclude={"digest"}))

    @model_validator(mode="after")
    def _untouched(self) -> Self:
        found = self.own_digest()
        if self.digest != found:
            raise ValueError(
                f"digest {self.digest} does not match the certificate's numbers ({found}), which "
                "were changed after it was made; restore the file or run the study again"
            )
        return self

    @property
    def certified(self) -> tuple[Tested, ...]:
        """The policies that passed, in the order of testing."""
        return tuple(tested for tested in self.order if tested.certified)


def policy_digest(policy: Setting | Adaptive, predictor: AlphaPredictor | None) -> str:
    """Return the digest of a policy, of an adaptive one with its predictor."""
    chooser = None
    if isinstance(policy, Adaptive):
        chooser = None if predictor is None else predictor.to_dict()
    return digest_of({"policy": policy.model_dump(mode="json"), "predictor": chooser})


def digest_of(data: object) -> str:
    """Return the digest of plain data: BLAKE2b of its canonical JSON, 32 hexadecimal digits."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
