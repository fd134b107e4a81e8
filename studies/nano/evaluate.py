"""Measure a nano model: `python -m studies.nano.evaluate --model DIR --split report --count 3200`.

Answers are compared by exact match of the first answer token. Prints, and writes with `--out`, the
accuracy of the unpruned model and of random pruning by question kind, then what alpha does: it is
chosen on the tune split, overall and by kind, and scored on the split asked for. Standard errors
are clustered by image.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from resprune.errors import ResPruneError
from resprune.files import write_text
from resprune.relevance import relevance_scores, relevance_weights
from resprune.subspace import greedy_order_batch
from studies.nano.families import chat_of
from studies.nano.packing import pack
from studies.nano.processor import vocabulary
from studies.nano.questions import KINDS, Question
from studies.nano.scenes import PATCHES, PLURALS, SHAPES
from studies.nano.splits import SPLITS, NanoQuestion, Split, iter_questions
from studies.nano.train import MODELS

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
RANDOM_DRAWS = 2
_GENERIC_NOUNS = ("shape", "color", "digit", "number", "picture")
_THINGS = ("thing", "things", "object", "objects")
NOUNS = frozenset((*SHAPES, *PLURALS.values(), *_GENERIC_NOUNS, *_THINGS))
"""The nouns of the wordings, by list: this measures the model and leaves no part to a tagger."""

Right = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Outcomes:
    """Which questions each way of choosing tokens got right; keys are 'method' or 'method@k'."""

    questions: Sequence[NanoQuestion]
    right: dict[str, npt.NDArray[np.float64]]

    @property
    def budgets(self) -> list[int]:
        """The budgets among the keys, largest first."""
        return sorted({int(key.split("@")[1]) for key in self.right if "@" in key}, reverse=True)

    def accuracy(self, key: str, kind: str | None = None) -> float:
        """Mean over the questions, or over those of a kind."""
        return float(self.right[key][self._of(kind)].mean())

    def standard_error(self, key: str, other: str | None = None) -> float:
        """Of the accuracy, or of the paired difference to `other`; clustered by image."""
        values = self.right[key] - (0 if other is None else self.right[other])
        return clustered_error(values, [q.image_id for q in self.questions])

    def _of(self, kind: str | None) -> npt.NDArray[np.bool_]:
        return np.array([kind is None or q.kind == kind for q in self.questions])


def clustered_error(values: npt.NDArray[np.float64], images: Sequence[str]) -> float:
    """Standard error of the mean of values that come in groups."""
    _, group = np.unique(np.array(images), return_inverse=True)
    sums = np.bincount(group, values - values.mean())
    return float(np.sqrt((sums**2).sum()) / len(values))


def trained_as(model: Any) -> Any:
    """Return the module of `studies.nano.models` that a model belongs to.

    Raises:
        ResPruneError: it is no embedded model's.
    """
    for module in map(importlib.import_module, MODELS.values()):
        if model.config.model_type == module.MODEL_TYPE:
            return module
    raise ResPruneError(
        f"a model of type {model.config.model_type!r} is none of {', '.join(MODELS)}"
    )


def encode(model: Any, seeds: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Visual tokens (n, T, d) of scenes, and the attention (n, T) that each gets."""
    found: tuple[torch.Tensor, torch.Tensor] = trained_as(model).encode(model, seeds)
    return found


@torch.no_grad()
def answer(
    model: Any,
    tokens: torch.Tensor,
    image: torch.Tensor,
    kept: torch.Tensor,
    questions: Sequence[NanoQuestion],
) -> Right:
    """Which questions (n) are answered right with `kept` tokens (n, k) of their images."""
    right, module = [], trained_as(model)
    size = 200 if kept.shape[1] <= PATCHES else 50
    for begin in range(0, len(questions), size):
        part = slice(begin, begin + size)
        patches = kept[part].sort(1).values
        chosen = tokens[image[part, None], patches]
        single = [[Question(q.kind, q.text, q.answer)] for q in questions[part]]
        asked = pack(single, chat_of(model))
        seeds = [q.scene_seed for q in questions[part]]
        scored = module.predict_kept(model, chosen, patches, seeds, asked)
        right.append(scored.answer_logits.argmax(-1)[:, 0] == scored.answers[:, 0])
    return torch.cat(right).numpy()


def noun_relevance(
    model: Any, tokens: torch.Tensor, image: torch.Tensor, questions: Sequence[NanoQuestion]
) -> torch.Tensor:
    """Relevance (n, T) of each question's image by the nouns of the question's text."""
    ids = {word: i for i, word in enumerate(vocabulary())}
    embeddings = model.get_input_embeddings().weight.detach()
    rows = []
    for index, question in zip(image.tolist(), questions, strict=True):
        words = question.text.lower().rstrip("?.").split()
        nouns = embeddings[[ids[w] for w in words if w in NOUNS]]
        rows.append(relevance_scores(tokens[index], nouns))
    return torch.stack(rows)


def measure(model: Any, split: Split, count: int) -> Outcomes:
    """Answer the first questions of a split under every method, budget and alpha."""
    module = trained_as(model)
    questions = iter_questions(split, count, scene=module.SCENE)
    seeds = sorted({q.scene_seed for q in questions})
    image = torch.tensor([seeds.index(q.scene_seed) for q in questions])
    tokens, attention = encode(model, seeds)
    model.set_attn_implementation("sdpa")
    relevance = noun_relevance(model, tokens, image, questions)
    norms, generator = tokens.norm(dim=-1), torch.Generator().manual_seed(0)
    jitter = 1e-6 * torch.rand(relevance.shape, generator=generator)

    def score(kept: torch.Tensor) -> npt.NDArray[np.float64]:
        return answer(model, tokens, image, kept, questions).astype(np.float64)

    right = {"unpruned": score(torch.arange(tokens.shape[1]).expand(len(questions), -1))}
    first = attention.argmax(1)
    orders = torch.cat(
        [
            greedy_order_batch(
                tokens[some],
                relevance_weights(given, torch.tensor(ALPHAS)),
                max(module.BUDGETS),
                first[some][:, None].expand(-1, len(ALPHAS)),
            )
            for some, given in zip(
                torch.split(image, 400), torch.split(relevance, 400), strict=True
            )
        ]
    )
    for k in module.BUDGETS:
        draws = torch.rand(RANDOM_DRAWS, *relevance.shape, generator=generator)
        drawn = [score(d.topk(k, 1).indices) for d in draws]
        right[f"random@{k}"] = np.mean(drawn, axis=0)
        right[f"l2_norm@{k}"] = score(norms.topk(k, 1).indices[image])
        right[f"{module.SIGNAL}@{k}"] = score(attention.topk(k, 1).indices[image])
        right[f"relevance@{k}"] = score((relevance + jitter).topk(k, 1).indices)
        for a, alpha in enumerate(ALPHAS):
            right[f"{alpha:g}@{k}"] = score(orders[:, a, :k])
    return Outcomes(questions, right)


def summarise(report: Outcomes, tune: Outcomes) -> dict[str, Any]:
    """Accuracies of `report`, with alpha chosen on `tune`."""
    summary: dict[str, Any] = {
        "questions": len(report.questions),
        "accuracy": {
            key: {
                "overall": round(report.accuracy(key), 4),
                "standard_error": round(report.standard_error(key), 4),
                "by_kind": {kind: round(report.accuracy(key, kind), 3) for kind in KINDS},
            }
            for key in report.right
        },
        "alpha": {},
    }
    kinds = np.array([q.kind for q in report.questions])
    for k in report.budgets:
        fixed = _best_alpha(tune, k)
        by_kind = {kind: _best_alpha(tune, k, kind) for kind in KINDS}
        chosen = np.choose(
            [ALPHAS.index(by_kind[kind]) for kind in kinds],
            [report.right[f"{alpha:g}@{k}"] for alpha in ALPHAS],
        )
        report.right["chosen by kind"] = chosen
        best = f"{fixed:g}@{k}"
        pairs = {
            "best_over_zero": (best, f"0@{k}"),
            "best_over_relevance_only": (best, f"relevance@{k}"),
            "zero_over_relevance_only": (f"0@{k}", f"relevance@{k}"),
            "by_kind_over_best": ("chosen by kind", best),
        }
        summary["alpha"][k] = {
            "chosen_on_tune": fixed,
            "chosen_on_tune_by_kind": by_kind,
            **{
                name: {
                    "difference": round(report.accuracy(a) - report.accuracy(b), 4),
                    "standard_error": round(report.standard_error(a, b), 4),
                }
                for name, (a, b) in pairs.items()
            },
        }
        del report.right["chosen by kind"]
    return summary


def _best_alpha(outcomes: Outcomes, k: int, kind: str | None = None) -> float:
    return max(ALPHAS, key=lambda alpha: outcomes.accuracy(f"{alpha:g}@{k}", kind))


def load_model(folder: Path) -> Any:
    """Load a nano model for evaluation, never from a hub."""
    from transformers import AutoModelForImageTextToText

    model: Any = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
    return model.eval()


def show(summary: dict[str, Any]) -> None:
    """Print a table: one row a method, one column a kind; then the choice of alpha."""
    print(f"{'':17s} overall         " + " ".join(f"{kind[:11]:>11s}" for kind in KINDS))
    for key, row in summary["accuracy"].items():
        cells = " ".join(f"{row['by_kind'][kind]:11.2f}" for kind in KINDS)
        print(f"{key:17s} {row['overall']:.3f} +- {row['standard_error']:.3f} {cells}")
    for k, chosen in summary["alpha"].items():
        print(k, json.dumps(chosen))


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--split", choices=SPLITS, default="report")
    parser.add_argument("--count", type=int, default=3200, help="questions of the split")
    parser.add_argument("--tune-count", type=int, default=2400, help="questions to choose alpha on")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(arguments.model)
    tune = measure(model, "tune", arguments.tune_count)
    summary = summarise(measure(model, arguments.split, arguments.count), tune)
    show(summary)
    if arguments.out:
        write_text(arguments.out, json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
