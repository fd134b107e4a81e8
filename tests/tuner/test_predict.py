"""Predict: the pruned answer is attach's own, bad input is refused before a model is loaded."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from resprune import PruningConfig, Setting, attach
from resprune.alpha import FEATURE_NAMES, AlphaPredictor, form_digest, question_form
from resprune.errors import ConfigError, ResPruneError
from resprune.nouns import NounExtractor
from resprune.testing.tiny import tiny_llava as make_tiny
from tuner import predict as module
from tuner.imagefile import draw_kept, open_image
from tuner.output.console import show_prediction
from tuner.predict import load_model, predict

ROWS = [
    Setting.of("resprune", 5, alpha=1.0, seed_strategy="l2_norm"),
    Setting.of("resprune", 3, alpha=0.25, seed_strategy="cls_attention"),
    Setting.of("divprune", 0.25, positions="compact"),
]
QUESTION = "What color is the dog on the left?"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model folder with model and processor, as `from_pretrained` reads it."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    model, processor = make_tiny(folder=folder)
    model.save_pretrained(folder)
    return folder, processor


@pytest.fixture
def config_dir(tmp_path, saved):
    folder, _ = saved
    made_for = {"family": "llava", "id": str(folder)}
    data = {"backbone": made_for, "table": ROWS, "default": 5}
    PruningConfig.from_dict(data).save_pretrained(tmp_path / "config")
    return tmp_path / "config"


@pytest.fixture
def photo(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "photo.png"
    Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)).save(path)
    return path


def generated(model, processor, photo, **options):
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
    prompt = processor.apply_chat_template([turn], add_generation_prompt=True)
    inputs = processor(images=Image.open(photo), text=prompt, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=6, do_sample=False, **options)
    return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize(("budget", "row", "count"), [(None, 0, 5), (3, 1, 3), (0.25, 2, 4)])
def test_both_answers_are_the_models_own(saved, config_dir, photo, budget, row, count):
    from transformers import AutoModelForImageTextToText

    folder, processor = saved
    result = predict(config_dir, photo, f"  {QUESTION} ", budget=budget, max_new_tokens=6)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    assert result.unpruned == generated(model, processor, photo).strip()
    with attach(model, processor, PruningConfig.from_pretrained(config_dir)) as attachment:
        text = generated(model, processor, photo, budget=budget)
        kept = attachment.last.kept[0].tolist()
    assert result.pruned == text.strip()
    assert result.kept == kept
    assert (result.tokens_kept, result.visual_tokens) == (count, 16)
    assert len(result.kept) == count
    assert result.same == (result.pruned.lower() == result.unpruned.lower())
    assert (result.setting, result.adaptive, result.outside) == (ROWS[row], False, False)
    assert ("dog" in result.nouns) == (result.setting.method == "resprune")
    assert result.question == QUESTION
    assert type(result).model_validate_json(result.model_dump_json()) == result


def digest_of(question):
    return form_digest(question_form(question, NounExtractor().content_tags(question)))


@pytest.mark.parametrize(
    ("forms", "said"),
    [
        (None, "alpha 2, seed l2_norm (chosen for this prompt)"),
        ([QUESTION], "alpha 2, seed l2_norm (chosen for this prompt)"),
        (
            ["Never asked."],
            "alpha 2, seed l2_norm (not a prompt like those it was fitted on: one setting)",
        ),
    ],
)
def test_the_arm_of_the_prompt_is_said(saved, tmp_path, photo, forms, said):
    """A predictor that trusts nothing serves the best fixed arm."""
    arms = [ROWS[0].with_options(alpha=alpha) for alpha in (0.0, 2.0)]
    numbers = {"center": [0.0], "scale": [1.0], "low": [0.0], "high": [9.0]}
    budget = {"budget": {"count": 5}, "mean_losses": [0.3, 0.2], "strength": 0.0, "model": None}
    predictor = AlphaPredictor.from_dict(
        {
            "schema_version": 3,
            "forms": None if forms is None else [digest_of(question) for question in forms],
            "features": [FEATURE_NAMES[0]],
            **numbers,
            "arms": [{"alpha": 0.0}, {"alpha": 2.0}],
            "budgets": [budget],
        }
    )
    data = {"table": [{"arms": arms, "fallback": 0}], "default": 5}
    PruningConfig.from_dict(data, predictor=predictor).save_pretrained(tmp_path / "c")
    result = predict(tmp_path / "c", photo, QUESTION, model=str(saved[0]), max_new_tokens=1)
    assert (result.setting, result.adaptive) == (arms[1], True)
    assert result.outside == (forms == ["Never asked."])
    console = Console(record=True, width=200)
    show_prediction(result, console)
    assert said in console.export_text()


def test_kept_tokens_are_drawn_where_they_lie(config_dir, photo, tmp_path):
    target = tmp_path / "kept.png"
    result = predict(config_dir, photo, QUESTION, draw=target, max_new_tokens=1)
    assert result.drawn == str(target)
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".tmp"]
    # 28 pixels and 4 x 4 tokens: the view is the image, a token is 7 pixels wide
    original = np.asarray(Image.open(photo))
    drawn = np.asarray(Image.open(target).convert("RGB"))
    factor = drawn.shape[0] // 28
    kept = {divmod(i, 4) for i in result.kept}
    for row in range(4):
        for column in range(4):
            y, x = row * 7 + 3, column * 7 + 3
            same = (drawn[y * factor + 2, x * factor + 2] == original[y, x]).all()
            assert same == ((row, column) in kept)


def test_boxes_past_the_edge_are_cut_off():
    image = Image.new("RGB", (500, 400), "black")
    drawn = draw_kept(image, [(-50, -50, 100, 100), (450, 350, 600, 600), (900, 900, 950, 950)])
    assert drawn.size == (500, 400)
    assert drawn.getpixel((50, 50)) == (0, 0, 0)
    assert drawn.getpixel((480, 380)) == (0, 0, 0)
    assert drawn.getpixel((250, 200))[0] > 150


# -- bad input ---------------------------------------------------------------------------


@pytest.fixture
def no_model(monkeypatch):
    """Let loading a model fail the test."""

    def refuse(*args):
        raise AssertionError("the model was loaded before the input was checked")

    monkeypatch.setattr(module, "load_model", refuse)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("question", ["", "  \n\t "])
def test_an_empty_question_is_refused(config_dir, photo, question):
    with pytest.raises(ResPruneError, match="question is empty"):
        predict(config_dir, photo, question)


def test_a_question_with_the_image_marker_is_refused(config_dir, photo):
    with pytest.raises(ResPruneError, match="'<image>'"):
        predict(config_dir, photo, "what is <image> here?")


@pytest.mark.usefixtures("no_model")
def test_a_budget_outside_the_table_is_refused(config_dir, photo):
    with pytest.raises(ConfigError, match=r"lists 5, 3, 0\.25"):
        predict(config_dir, photo, QUESTION, budget=4)


@pytest.mark.usefixtures("no_model")
def test_a_policy_that_keeps_everything_has_nothing_to_show(tmp_path, photo):
    PruningConfig.single(1.0, method="unpruned").save_pretrained(tmp_path / "c")
    with pytest.raises(ResPruneError, match="keeps everything; name another with --budget"):
        predict(tmp_path / "c", photo, QUESTION)


@pytest.mark.usefixtures("no_model")
def test_a_folder_without_a_config_is_refused(tmp_path, photo):
    with pytest.raises(ConfigError, match="no pruning_config"):
        predict(tmp_path, photo, QUESTION)
    with pytest.raises(ConfigError, match="no such folder"):
        predict(tmp_path / "nowhere", photo, QUESTION)


def test_a_config_that_names_no_model_asks_for_one(tmp_path, photo, saved):
    PruningConfig.single(3).save_pretrained(tmp_path / "c")
    with pytest.raises(ResPruneError, match="--model"):
        predict(tmp_path / "c", photo, QUESTION)
    result = predict(tmp_path / "c", photo, QUESTION, model=str(saved[0]), max_new_tokens=1)
    assert result.model == str(saved[0])


def test_a_config_for_another_backbone_is_refused(tmp_path, photo, saved):
    options = {"backbone": {"family": "qwen2_5_vl"}}
    PruningConfig.single(3, **options).save_pretrained(tmp_path / "c")
    with pytest.raises(ConfigError, match=r"qwen2_5_vl.*llava"):
        predict(tmp_path / "c", photo, QUESTION, model=str(saved[0]))


@pytest.mark.parametrize("name", ["nano-lava", "", "./nowhere"])
def test_a_model_that_is_not_there_is_named(config_dir, photo, name):
    with pytest.raises(ResPruneError, match=r"model"):
        predict(config_dir, photo, QUESTION, model=name)


def png(width, height):
    """Return a PNG that claims a size and holds next to nothing."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "image"),
        (png(9000, 9000), "9000 x 9000"),
        (png(40_000, 40_000), "more pixels|40000 x 40000"),
        (png(64, 64), "cannot be read|damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    ],
)
def test_what_is_no_image_is_refused(config_dir, tmp_path, content, expected):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(ResPruneError, match=expected) as caught:
        predict(config_dir, path, QUESTION)
    assert str(path) in str(caught.value)


@pytest.mark.usefixtures("no_model")
def test_a_missing_file_and_a_folder_are_no_images(config_dir, tmp_path):
    for path in (tmp_path / "nowhere.png", tmp_path):
        with pytest.raises(ResPruneError, match="cannot be read as an image") as caught:
            predict(config_dir, path, QUESTION)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_torn_image_is_refused_or_read_as_far_as_the_format_allows(tmp_path, kind, cut):
    rng = np.random.default_rng(0)
    whole = tmp_path / "whole"
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(whole, kind)
    torn = tmp_path / "torn"
    torn.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * cut)])
    with pytest.raises(ResPruneError, match="torn"):
        open_image(torn)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_kind_of_pixel_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("x.tiff" if mode == "CMYK" else "x.png")
    Image.new(mode, (6, 4)).save(path)
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (6, 4))


def test_a_turned_photo_is_set_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (8, 4), "red").save(tmp_path / "x.jpg", exif=exif)
    assert open_image(tmp_path / "x.jpg").size == (4, 8)


def test_a_drawing_that_cannot_be_written_is_said(config_dir, photo, tmp_path):
    with pytest.raises(ResPruneError, match="cannot be written"):
        predict(config_dir, photo, QUESTION, draw=tmp_path / "no" / "x.png", max_new_tokens=1)


@pytest.mark.parametrize("named", [None, "nano-llava"])
def test_the_text_model_of_a_config_is_loaded_wherever_it_is_served(monkeypatch, named):
    """Else ``certify`` and ``bench`` would score another relevance than ``attach`` serves."""
    monkeypatch.setattr("tuner.scoring.model.TextModel", lambda source, backbone: source)
    made_for = {"family": "llava", "id": "nano-llava", "text_model": "some/clip"}
    config = PruningConfig.from_dict(
        {"default": 5, "table": [Setting.of("cdpruner", 5)], "backbone": made_for}
    )
    assert load_model(config, named, "here").text_model == "some/clip"
