"""CDPruner as published: with the text side of the CLIP model that the vision tower is from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import resprune
from resprune import PruningConfig, Setting
from resprune.backbones import for_model
from resprune.config import BackboneRef
from resprune.errors import UnsupportedModelError
from resprune.testing.calls import greedy
from resprune.testing.case import Case
from resprune.testing.tiny import enlarge_weights, tiny_llava, tiny_qwen, tiny_tokenizer
from resprune.textmodel import TextModel

LENGTH = 12  # of a text, in tokens
CONFIG = PruningConfig.from_dict({"default": 5, "table": [Setting.of("cdpruner", 5)]})


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, tiny_llava: tuple[Any, Any]) -> Path:
    """A tiny CLIP checkpoint whose image side is the tower of the tiny LLaVA."""
    library: Any = transformers
    folder = tmp_path_factory.mktemp("clip")
    tower = tiny_llava[0].config.vision_config
    tokenizer = tiny_tokenizer()
    text = library.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=10,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = library.CLIPConfig(
            text_config=text.to_dict(), vision_config=tower.to_dict(), projection_dim=10
        )
        model = library.CLIPModel(config).eval()
        enlarge_weights(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def case(tiny_llava: tuple[Any, Any], images: list[Image.Image]) -> Case:
    model, processor = tiny_llava
    return Case(model, processor, images)


def relevance_by_hand(case: Case, folder: Path, inputs: Any, question: str) -> np.ndarray:
    """Min-max of the negative mean cosine, from transformers' own hidden states and texts."""
    library: Any = transformers
    whole = library.CLIPModel.from_pretrained(folder).eval()
    tower = case.model.model.vision_tower
    tower = getattr(tower, "vision_model", tower)
    tokenizer = library.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        states = tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2]
        seen = whole.visual_projection(tower.post_layernorm(states[0, 1:])).double().numpy()
        ids = tokenizer(question)["input_ids"]
        parts = [ids[start : start + LENGTH] for start in range(0, len(ids), LENGTH)]
        said = []
        for part in parts:
            padded = torch.tensor([part + [0] * (LENGTH - len(part))])
            mask = torch.tensor([[1] * len(part) + [0] * (LENGTH - len(part))])
            output = whole.text_model(input_ids=padded, attention_mask=mask).pooler_output
            said.append(whole.text_projection(output)[0].double().numpy())
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (seen, np.array(said))]
    score = -(units[0] @ units[1].T).mean(axis=1)
    return np.asarray((score - score.min()) / (score.max() - score.min()))


@pytest.mark.parametrize("question", ["Is it red?", "What " + "colour of the dog " * 9 + "is it?"])
def test_what_is_kept_has_the_largest_determinant(case: Case, clip: Path, question: str) -> None:
    inputs = case.one(0, [0])
    with resprune.attach(case.model, case.processor, CONFIG, text_model=str(clip)) as attachment:
        greedy(case.model, inputs, query=question)
        assert attachment.last is not None
        found = attachment.last.order[0].tolist()
    relevance = relevance_by_hand(case, clip, inputs, question)
    tokens = for_model(case.model, case.processor).encode(inputs)[0].tokens.double().numpy()
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    kernel = relevance[:, None] * (unit @ unit.T) * relevance
    kept: list[int] = []
    while len(kept) < 5:
        volumes = [
            -1.0 if i in kept else float(np.linalg.det(kernel[np.ix_([*kept, i], [*kept, i])]))
            for i in range(len(tokens))
        ]
        kept.append(int(np.argmax(volumes)))
    assert found == kept
    with resprune.attach(case.model, case.processor, CONFIG) as attachment:
        assert attachment.backbone.text_model is None
        greedy(case.model, inputs, query=question)
        assert attachment.last is not None
        assert attachment.last.order[0].tolist() != kept  # noun relevance stands in


def test_an_exported_config_names_it(case: Case, clip: Path) -> None:
    made_for = BackboneRef(family="llava", text_model=str(clip))
    config = CONFIG.model_copy(update={"backbone": made_for})
    with resprune.attach(case.model, case.processor, config) as attachment:
        assert attachment.backbone.text_model.source == str(clip)
    assert PruningConfig.from_dict(config.to_dict()).backbone == made_for


def test_long_questions_are_cut_into_pieces(case: Case, clip: Path) -> None:
    text = TextModel(str(clip), case.backbone)
    assert text.embed("Is it red?").shape == (1, 10)
    long = text.embed("colour of the dog " * 20)
    assert len(long) > 2
    assert long.dtype == torch.float32


def test_what_does_not_fit_is_refused(case: Case, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="text_model: 'nowhere' cannot be loaded"):
        TextModel("nowhere", case.backbone)
    library: Any = transformers
    config = library.CLIPConfig.from_pretrained(clip)
    config.vision_config.hidden_size = 16
    other = library.CLIPModel(config)
    other.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="width 16 and the vision tower's have 32"):
        TextModel(str(tmp_path), case.backbone)
    for model, processor in (tiny_llava(tower="siglip"), tiny_qwen("qwen2_5_vl")):
        backbone = for_model(model, processor)
        with pytest.raises(UnsupportedModelError, match=r"LLaVA-1\.5 alone"):
            TextModel(str(clip), backbone)


def test_without_one_nothing_is_recorded(case: Case, clip: Path) -> None:
    inputs = case.one(0, [0])
    plain = case.backbone.encode(inputs)[0]
    assert "image_embeds" not in plain.extras
    text = TextModel(str(clip), case.backbone)
    backbone = for_model(case.model, case.processor)
    backbone.text_model = text
    before = len(text._layer._forward_hooks)
    with_text = backbone.encode(inputs, signals=["cls_attention"])[0]
    assert with_text.extras["image_embeds"].shape == (len(plain.tokens), 10)
    assert torch.equal(with_text.tokens, plain.tokens)
    assert len(text._layer._forward_hooks) == before
