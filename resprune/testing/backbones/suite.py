"""What every part of the suite is given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import resprune
from resprune.attaching.attachment import Attachment
from resprune.testing.case import Case

FULL = 1.0
"""The ratio that keeps everything."""


class Suite:
    """A part of the suite; a subclass gives the `case`."""

    @pytest.fixture(scope="class")
    def case(self) -> Case:
        """The backbone under test; a subclass must give it."""
        raise NotImplementedError("give a `case` fixture that returns a Case")

    @pytest.fixture(params=["keep", "compact"])
    def positions(self, request: pytest.FixtureRequest) -> str:
        """Both position policies."""
        return str(request.param)

    @pytest.fixture
    def attached(self, case: Case, positions: str) -> Iterator[Attachment]:
        """The model with pruning on."""
        with resprune.attach(
            case.model, case.processor, case.config(positions=positions)
        ) as attachment:
            yield attachment
