"""Examples of the report split: what policies keep of an image, and what the model answers then."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from tuner.results.schema import KeptExample, KeptPanel
from tuner.scoring.split import Split
from tuner.stages.report import Panel

_MAX_SIDE = 448  # pixels of an example's picture


def kept_examples(split: Split, panels: Sequence[Panel], count: int) -> list[KeptExample]:
    """Show what policies keep of some samples.

    The first sample of each question type with an image not shown yet, in the split's order, so
    that nothing about the outcome decides what is shown; then further samples.

    Args:
        split: The report split.
        panels: Policies to draw.
        count: How many samples at most.

    Returns:
        The examples.
    """
    if not panels:
        return []
    answers = split.answers([panel.plans for panel in panels])
    labelled = all(sample.answers for sample in split.samples)
    whole = [] if labelled else split.answers([split.unpruned()])[0]
    found = []
    for i in _spread(split, count):
        sample, visual = split.samples[i], split.visuals(i)[0]
        if visual.boxes is None or sample.more:
            continue
        image = sample.load_image()
        scale = min(1.0, _MAX_SIDE / max(image.size))
        if scale < 1.0:
            image = image.resize((round(image.width * scale), round(image.height * scale)))
        drawn = []
        for panel, answer in zip(panels, answers, strict=True):
            kept = panel.plans[i].kept
            boxes = (visual.boxes[kept] * scale).tolist()
            drawn.append(
                KeptPanel(
                    kind=panel.kind,
                    setting=panel.settings[i],
                    kept=kept.tolist(),
                    boxes=[(x0, y0, x1, y1) for x0, y0, x1, y1 in boxes],
                    prediction=answer[i],
                )
            )
        file = io.BytesIO()
        image.save(file, "PNG")
        found.append(
            KeptExample(
                question=sample.question,
                answer=sample.answers[0] if sample.answers else whole[i],
                nouns=list(split.prompt(i).nouns),
                image_png_base64=base64.b64encode(file.getvalue()).decode("ascii"),
                panels=drawn,
            )
        )
    return found


def _spread(split: Split, count: int) -> list[int]:
    groups: set[str] = set()
    images: set[str] = set()
    first, rest = [], []
    for i, sample in enumerate(split.samples):
        if sample.image_id in images:
            continue
        if sample.group not in groups:
            groups.add(sample.group)
            images.add(sample.image_id)
            first.append(i)
        else:
            rest.append(i)
    more = [i for i in rest if split.samples[i].image_id not in images]
    return (first + more)[:count]
