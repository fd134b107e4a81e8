"""Make the small data sets that the benchmark tasks are tested on, in their hub schemas.

    python scripts/benchmark_fixtures.py          # writes tests/fixtures/benchmarks/

Photographs that ship inside scikit-image and scikit-learn, made small, and questions written for
them, a ``<task>.jsonl`` a benchmark, whose rows have the columns of the data set that lmms-eval
0.7.3 reads and name their photograph. None of the benchmarks' own rows are copied.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

OUT = Path(__file__).parents[1] / "tests" / "fixtures" / "benchmarks"
PHOTOGRAPHS = (
    "astronaut", "chelsea", "coffee", "rocket", "motorcycle_left", "page", "china", "flower",
)  # fmt: skip
_SIDE = 128
_QUALITY = 55

# photograph: what it shows and what it does not, a question of one word, its answers by annotators
FACTS: dict[str, dict[str, Any]] = {
    "astronaut": {"shows": "person", "not": "dog", "color": "orange", "asks": "what is the suit?",
                  "answers": ["spacesuit"] * 6 + ["space suit"] * 3 + ["astronaut's"]},
    "chelsea": {"shows": "cat", "not": "car", "color": "brown", "asks": "What animal is this?",
                "answers": ["cat"] * 9 + ["a cat"]},
    "coffee": {"shows": "cup", "not": "fork", "color": "red", "asks": "what is in the CUP?",
               "answers": ["coffee"] * 5 + ["espresso"] * 5},
    "rocket": {"shows": "rocket", "not": "tree", "color": "white", "asks": "How many rockets?",
               "answers": ["1"] * 4 + ["one"] * 6},
    "motorcycle_left": {"shows": "motorcycle", "not": "horse", "color": "red",
                        "asks": "Is it parked?", "answers": ["yes"] * 10},
    "page": {"shows": "text", "not": "person", "color": "grey", "asks": "what is the headline?",
             "answers": ["region-based segmentation"] * 8 + ["region based segmentation"] * 2},
    "china": {"shows": "pagoda", "not": "boat race", "color": "red", "asks": "Which building?",
              "answers": ["pagoda"] * 7 + ["temple"] * 2 + ["unanswerable"]},
    "flower": {"shows": "flower", "not": "cup", "color": "orange", "asks": "what's this?",
               "answers": ["flower"] * 6 + ["dahlia"] * 4},
}  # fmt: skip


def pope() -> Iterator[dict[str, Any]]:
    """Two questions a photograph: one about what is there, one about what is not."""
    number = 0
    for image, fact in FACTS.items():
        for thing, answer in ((fact["shows"], "yes"), (fact["not"], "no")):
            number += 1
            yield {
                "id": str(number), "question_id": str(number), "image_source": image,
                "question": f"Is there a {thing} in the image?", "answer": answer,
                "category": "random" if number % 3 else "popular", "image": image,
            }  # fmt: skip


def gqa() -> Iterator[dict[str, Any]]:
    """Instructions; the images are the photographs themselves."""
    for number, (image, fact) in enumerate(FACTS.items()):
        for kind, question, answer in (
            ("color", f"What color is the {fact['shows']}?", fact["color"]),
            ("exist", f"Is there any {fact['not']}?", "no"),
        ):
            yield {
                "id": f"{number}-{kind}", "imageId": image, "question": question, "answer": answer,
                "fullAnswer": f"It is {answer}.", "isBalanced": True,
            }  # fmt: skip


def textvqa() -> Iterator[dict[str, Any]]:
    """Ten annotators a question."""
    for number, (image, fact) in enumerate(FACTS.items()):
        yield {
            "question_id": 34_600 + number, "image_id": image, "question": fact["asks"],
            "answers": fact["answers"], "image": image, "set_name": "val",
            "ocr_tokens": ["Region-based"] if image == "page" else [],
        }  # fmt: skip


def vizwiz() -> Iterator[dict[str, Any]]:
    """Ten annotators a question; one cannot be answered."""
    for number, (image, fact) in enumerate(FACTS.items()):
        yield {
            "question_id": f"VizWiz_val_{number:08}.jpg", "question": fact["asks"],
            "answers": ["unanswerable"] * 10 if image == "page" else fact["answers"],
            "category": "other", "image": image,
        }  # fmt: skip


def vqav2() -> Iterator[dict[str, Any]]:
    """Ten annotators a question, a table each."""
    for number, (image, fact) in enumerate(FACTS.items()):
        answers = [
            {"answer": text, "answer_confidence": "yes", "answer_id": place}
            for place, text in enumerate(fact["answers"], 1)
        ]
        yield {
            "question_id": 393_225_000 + number, "image_id": 393_225 + number,
            "question": fact["asks"], "answers": answers, "question_type": "what is",
            "answer_type": "other", "multiple_choice_answer": fact["answers"][0], "image": image,
        }  # fmt: skip


def scienceqa_img() -> Iterator[dict[str, Any]]:
    """Two to four choices, with and without a hint."""
    things = [fact["shows"] for fact in FACTS.values()]
    for number, (image, fact) in enumerate(FACTS.items()):
        others = [thing for thing in things if thing != fact["shows"]][number % 4 :][
            : 1 + number % 3
        ]
        choices = [*others, fact["shows"]]
        yield {
            "image": image, "question": "What does the picture show?", "choices": choices,
            "answer": len(choices) - 1, "hint": "Look at the middle." if number % 2 else "",
            "task": "closed choice", "subject": "natural science" if number % 2 else "language",
        }  # fmt: skip


def mmbench(
    question: str = "What is shown?", hint: str = "A photograph."
) -> Iterator[dict[str, Any]]:
    """Every question with its options rotated once."""
    things = [fact["shows"] for fact in FACTS.values()]
    for number, (image, fact) in enumerate(FACTS.items()):
        others = [thing for thing in things if thing != fact["shows"]][number % 5 :][:2]
        options = [fact["shows"], *others]
        for turn in range(2):
            turned = options[turn:] + options[:turn]
            yield {
                "index": number + 1_000_000 * turn, "question": question,
                "hint": hint if number % 2 else None,
                **dict(zip("ABCD", [*turned, None], strict=True)),
                "answer": "ABC"[turned.index(fact["shows"])], "category": "identity",
                "L2-category": "coarse perception", "split": "dev", "image": image,
            }  # fmt: skip


def mmbench_cn() -> Iterator[dict[str, Any]]:
    """The same, asked in Chinese."""
    return mmbench("图中展示了什么？", "一张照片。")


def mme() -> Iterator[dict[str, Any]]:
    """Two questions an image: one to be answered yes, one no."""
    for number, (image, fact) in enumerate(FACTS.items()):
        category = ("existence", "color", "OCR", "code_reasoning")[number % 4]
        for thing, answer in ((fact["shows"], "Yes"), (fact["not"], "No")):
            yield {
                "question_id": f"{category}/{image}.jpg",
                "question": f"Is there a {thing} in this image? Please answer yes or no.",
                "answer": answer, "category": category, "image": image,
            }  # fmt: skip


TASKS = {
    "gqa": gqa, "mmbench": mmbench, "mmbench-cn": mmbench_cn, "mme": mme, "pope": pope,
    "scienceqa-img": scienceqa_img, "textvqa": textvqa, "vizwiz": vizwiz, "vqav2": vqav2,
}  # fmt: skip


def photograph(name: str) -> Image.Image:
    """Open a photograph that scikit-image or scikit-learn carries."""
    import skimage
    from sklearn.datasets import load_sample_image

    if name in ("china", "flower"):
        return Image.fromarray(load_sample_image(f"{name}.jpg"))
    files = (Path(skimage.__file__).parent / "data").glob(f"{name}.*")
    return Image.open(next(files)).convert("RGB")


def main() -> None:
    """Write the photographs and the rows."""
    (OUT / "images").mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        image = photograph(name)
        image.thumbnail((_SIDE, _SIDE))
        image.save(OUT / "images" / f"{name}.jpg", quality=_QUALITY, optimize=True)
    for name, rows in TASKS.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in rows()]
        (OUT / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
