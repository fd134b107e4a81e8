"""What ``resprune-tune doctor`` prints: a line a finding, problems once more at the end."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tuner.doctor.schema import Diagnosis

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def show_diagnosis(found: Diagnosis, console: Console) -> None:
    """Print the findings by area, then how many problems there are."""
    for area, findings in groupby(found.findings, key=lambda finding: finding.area):
        console.print(Text(area, style="bold"))
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, min_width=9)
        table.add_column(no_wrap=True, min_width=16)
        table.add_column(overflow="fold")
        for finding in findings:
            level = Text(f"  {finding.level}", style=_STYLES[finding.level])
            table.add_row(level, Text(finding.name), Text(finding.text))
        console.print(table)
    problems = [finding for finding in found.findings if finding.level == "problem"]
    if not problems:
        console.print("no problem found", style="green", highlight=False)
        return
    names = ", ".join(finding.name for finding in problems)
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    console.print(Text(f"{count}: {names}", style="bold red"))
