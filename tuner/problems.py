"""Everything that is wrong with data, said at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from resprune.errors import StudyError

_SHOWN = 20
_In = TypeVar("_In")
_Out = TypeVar("_Out")


def all_of(problems: Sequence[str], what: str) -> str:
    """Return one message for several problems.

    Args:
        problems: One or more, each naming its place.
        what: What they are problems of, such as "rows".
    """
    if len(problems) == 1:
        return problems[0]
    shown = [f"  {problem}" for problem in problems[:_SHOWN]]
    rest = [f"  and {len(problems) - _SHOWN:,} more"] * (len(problems) > _SHOWN)
    return "\n".join([f"{len(problems):,} {what} cannot be used:", *shown, *rest])


def each(function: Callable[[_In], _Out], items: Iterable[_In], what: str) -> list[_Out]:
    """Apply a function to all items, and raise one error for all that it refuses.

    Args:
        function: Raises ``StudyError``.
        items: What it is applied to.
        what: What the items are called.

    Raises:
        StudyError: It refused at least one; the message names them.
    """
    problems: list[str] = []

    def results() -> Iterator[_Out]:
        for item in items:
            try:
                yield function(item)
            except StudyError as error:
                problems.append(str(error))

    found = list(results())
    if problems:
        raise StudyError(all_of(problems, what))
    return found
