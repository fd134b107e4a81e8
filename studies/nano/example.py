"""One scene to try the embedded models on: ``python -m studies.nano.example --out scene.png``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from PIL import Image

from studies.nano import model_dir, model_names
from studies.nano.scenes import generate_scene, generate_wide_scene
from studies.nano.splits import scene_seed

QUESTION = "What color is the star?"
_SCENE, _WIDE_SCENE = 20, 0  # of the monitor split: one star among several objects


def example_image(name: str = "nano-llava") -> Image.Image:
    """Return the example scene, RGB, 112 x 112 pixels; for nano-llava-next 224 x 112."""
    if name == "nano-llava-next":
        return generate_wide_scene(scene_seed("monitor", _WIDE_SCENE)).image
    return generate_scene(scene_seed("monitor", _SCENE)).image


def example(name: str = "nano-llava", question: str = QUESTION) -> tuple[Any, Any, dict[str, Any]]:
    """Load an embedded model and ask it something about the example scene.

    Args:
        name: An embedded model.
        question: What to ask.

    Returns:
        The model, its processor, and the inputs for ``model.generate``.

    Raises:
        ValueError: no shipped model has that name.
    """
    from transformers import AutoModelForImageTextToText

    from resprune.processors import load_processor

    folder = model_dir(name)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder)
    model.eval()
    processor = load_processor(str(folder))
    content = [{"type": "image"}, {"type": "text", "text": question}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = processor(images=example_image(name), text=prompt, return_tensors="pt")
    return model, processor, dict(inputs)


def main() -> None:
    """Write the example scene as a PNG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--model", choices=model_names(), default="nano-llava")
    arguments = parser.parse_args()
    example_image(arguments.model).save(arguments.out, format="PNG")
    print(f"{arguments.out}: ask it {QUESTION!r}")


if __name__ == "__main__":
    main()
