"""The lmms-eval plug-in: what it answers through lmms-eval is what ``attach`` answers by itself."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lmms_eval")

import torch
from loguru import logger

import resprune
from resprune import PruningConfig
from resprune.errors import ResPruneError
from resprune.processors import load_processor
from resprune.serving.lmms_eval.asking import (
    MAX_NEW_TOKENS,
    answer_ids,
    generate_arguments,
    ignored_arguments,
    read_messages,
    stops_of,
    trimmed,
)
from resprune.testing.tiny import tiny_llava, tiny_qwen, tiny_tiled
from resprune.testing.tiny.qwen import FAMILIES as QWEN
from resprune.testing.tiny.tiled import FAMILIES as TILED
from studies.nano import model_dir
from tests.lmms.tasks import NEW_TOKENS, Row, rows_of
from tests.vllm import configs

TASKS = {"nano-llava": "nano_one", "nano-llava-next": "nano_wide", "nano-qwen2.5-vl": "nano_one"}
FAMILIES = {"nano-llava": "llava", "nano-llava-next": "llava_next", "nano-qwen2.5-vl": "qwen2_5_vl"}


# -- the same without lmms-eval -----------------------------------------------------------


@functools.cache
def loaded(name: str) -> tuple[Any, Any]:
    """An embedded model, or one in a folder, and its processor."""
    from transformers import AutoModelForImageTextToText

    folder = model_dir(name) if name in TASKS else name
    return AutoModelForImageTextToText.from_pretrained(folder).eval(), load_processor(str(folder))


@torch.inference_mode()
def answers(
    name: str,
    rows: Sequence[Row],
    new_tokens: int,
    config: PruningConfig | None = None,
    seed: int = 0,
    **given: Any,
) -> tuple[list[str], list[int]]:
    """Answer questions one by one, bare or attached; and the visual tokens left of each image."""
    model, processor = loaded(name)
    attached = None if config is None else resprune.attach(model, processor, config, seed=seed)
    found, left = [], []
    for row in rows:
        content = [{"type": "image"}] * len(row.images) + [{"type": "text", "text": row.question}]
        turns = [{"role": "user", "content": content}]
        prompt = processor.apply_chat_template(turns, add_generation_prompt=True)
        images = {"images": [list(row.images)]} if row.images else {}
        inputs = processor(text=[prompt], return_tensors="pt", **images)
        output = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False, **given)
        ids = output[0, inputs["input_ids"].shape[1] :]
        found.append(processor.tokenizer.decode(ids, skip_special_tokens=True).strip())
        if attached is not None:
            left += [len(kept) for kept in attached.last.left]
    if attached is not None:
        attached.detach()
    return found, left


def evaluated(
    scenes: Path, name: str, tasks: Sequence[str], batch_size: int = 4, **arguments: Any
) -> tuple[Any, dict[str, list[str]]]:
    """Run tasks through lmms-eval; its results, and the answers by task in order of document."""
    from lmms_eval import evaluator
    from lmms_eval.models.model_utils.gen_metrics import reset_logged_metrics

    reset_logged_metrics()
    use_cache = arguments.pop("use_cache", None)
    given = {"pretrained": model_dir(name), **arguments}
    results = evaluator.simple_evaluate(
        model="resprune",
        model_args=",".join(f"{key}={value}" for key, value in given.items()),
        tasks=list(tasks),
        task_manager=task_manager(scenes),
        batch_size=str(batch_size),
        device="cpu",
        log_samples=True,
        use_cache=use_cache,
    )
    assert set(results["results"]) == set(tasks)  # a task that failed is left out
    found = {}
    for task in tasks:
        samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
        found[task] = [sample["filtered_resps"][0] for sample in samples]
        assert len(found[task]) == len(rows_of(task))
        right = [a == row.answer for a, row in zip(found[task], rows_of(task), strict=True)]
        assert results["results"][task]["accuracy,none"] == pytest.approx(sum(right) / len(right))
    return results, found


@functools.cache
def task_manager(scenes: Path) -> Any:
    """Reads every task of lmms-eval, once."""
    from lmms_eval.tasks import TaskManager

    return TaskManager("INFO", include_path=str(scenes), model_name="resprune")


def model(name: str = "nano-llava", **arguments: Any) -> Any:
    """The plug-in's model, as lmms-eval makes it."""
    from lmms_eval.models import get_model

    folder = str(model_dir(name)) if name in TASKS else name
    given = {"pretrained": folder, "device": "cpu", **arguments}
    return get_model("resprune")(**given)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What is logged."""
    found: list[str] = []
    sink = logger.add(lambda message: found.append(message.record["message"]), level="INFO")
    yield found
    logger.remove(sink)


# -- it is found --------------------------------------------------------------------------


def test_lmms_eval_finds_our_class() -> None:
    from lmms_eval.models import get_model, get_model_manifest

    (point,) = [p for p in entry_points(group="lmms_eval.models") if p.name == "resprune"]
    assert point.load()() == get_model_manifest("resprune")
    found = get_model("resprune")
    assert (found.__module__, found.__name__) == ("resprune.serving.lmms_eval.model", "ResPrune")
    assert found.is_simple is False


def test_naming_it_imports_nothing_heavy() -> None:
    code = "import sys, resprune.serving.lmms_eval; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_command_line(scenes: Path, tmp_path: Path) -> None:
    config = PruningConfig.paper_default("llava", 43)
    config.save_pretrained(tmp_path / "config")
    arguments = f"pretrained={model_dir('nano-llava')},config={tmp_path / 'config'}"
    command = [sys.executable, "-m", "lmms_eval", "--model", "resprune", "--tasks", "nano_one"]
    command += ["--model_args", arguments, "--include_path", str(scenes), "--batch_size", "4"]
    command += ["--device", "cpu", "--output_path", str(tmp_path / "out"), "--log_samples"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "ResPrune active: resprune at budget 43" in said
    assert "ResPrune kept 43.0 of 196.0 visual tokens an image on average (16 images)" in said
    (path,) = (tmp_path / "out").rglob("*_results.json")
    results = json.loads(path.read_text())
    expected, _ = answers("nano-llava", rows_of("nano_one"), NEW_TOKENS["nano_one"], config)
    right = [a == row.answer for a, row in zip(expected, rows_of("nano_one"), strict=True)]
    assert results["results"]["nano_one"]["accuracy,none"] == sum(right) / len(right)
    (path,) = (tmp_path / "out").rglob("*_samples_nano_one.jsonl")
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    samples.sort(key=lambda sample: sample["doc_id"])
    assert [sample["filtered_resps"] for sample in samples] == expected


# -- it answers as attach does ------------------------------------------------------------


def table(name: str) -> PruningConfig:
    """A config with a policy of many kinds, one a budget; that at 41 is adaptive."""
    signal = "l2_norm" if name == "nano-qwen2.5-vl" else "cls_attention"
    questions = [row.question for row in rows_of(TASKS[name])]
    return configs.config(FAMILIES[name], signal, "keep", questions)


@pytest.mark.parametrize(
    ("name", "given", "call"),
    [
        ("nano-llava", {}, {}),
        ("nano-llava", {"budget": 41}, {"budget": 41}),
        ("nano-llava", {"budget": 22, "alpha": 2.0}, {"budget": 22, "alpha": 2.0}),
        ("nano-llava", {"budget": 41, "alpha": 0.5}, {"budget": 41, "alpha": 0.5}),
        ("nano-llava-next", {}, {}),
        ("nano-llava-next", {"budget": 41}, {"budget": 41}),
        ("nano-qwen2.5-vl", {}, {}),
        ("nano-qwen2.5-vl", {"budget": 41}, {"budget": 41}),
    ],
)
def test_a_config_is_served(
    scenes: Path, tmp_path: Path, name: str, given: dict[str, Any], call: dict[str, Any]
) -> None:
    config = table(name)
    config.save_pretrained(tmp_path)
    task = TASKS[name]
    expected, left = answers(name, rows_of(task), NEW_TOKENS[task], config, **call)
    results, found = evaluated(scenes, name, [task], config=tmp_path, **given)
    assert found[task] == expected
    assert results["throughput"]["avg_visual_tokens_kept"] == pytest.approx(sum(left) / len(left))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("nano-llava", {"budget": 30, "positions": "compact"}),
        ("nano-llava", {"budget": 0.1, "method": "l2_norm"}),
        ("nano-llava", {"budget": 20, "method": "divprune"}),
        ("nano-llava", {"budget": 20, "method": "random", "seed": 3}),
        ("nano-llava", {"budget": 20, "method": "fastv"}),
        ("nano-llava", {"budget": 0.25, "method": "pool"}),
        ("nano-llava", {"budget": 1.0, "method": "unpruned"}),
        ("nano-llava-next", {"budget": 0.2}),
        ("nano-qwen2.5-vl", {"budget": 0.2}),
        ("nano-qwen2.5-vl", {"budget": 0.3, "method": "dart"}),
    ],
)
def test_a_method_with_a_budget(scenes: Path, name: str, given: dict[str, Any]) -> None:
    rest = dict(given)
    budget, seed = rest.pop("budget"), rest.pop("seed", 0)
    make = PruningConfig.single
    if "method" not in rest:
        make = functools.partial(PruningConfig.paper_default, FAMILIES[name])
    config = make(budget, **rest)
    task = TASKS[name]
    expected, _ = answers(name, rows_of(task), NEW_TOKENS[task], config, seed=seed)
    _, found = evaluated(scenes, name, [task], **given)
    assert found[task] == expected


@pytest.mark.parametrize("name", TASKS)
def test_without_a_config_it_is_the_bare_model(scenes: Path, name: str, said: list[str]) -> None:
    task = TASKS[name]
    expected, _ = answers(name, rows_of(task), NEW_TOKENS[task])
    results, found = evaluated(scenes, name, [task])
    assert found[task] == expected
    assert "avg_visual_tokens_kept" not in results["throughput"]
    assert [line for line in said if "ResPrune" in line] == [
        "ResPrune inactive: every visual token is kept"
    ]


@pytest.mark.parametrize("given", [{}, {"budget": 20}, {"budget": 20, "method": "fastv"}])
def test_the_batch_size_changes_nothing(scenes: Path, given: dict[str, Any]) -> None:
    tasks = ["nano_one", "nano_mixed"]
    runs = [evaluated(scenes, "nano-llava", tasks, size, **given)[1] for size in (1, 3, 4)]
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("name", ["nano-llava", "nano-qwen2.5-vl"])
def test_rows_of_none_one_and_two_images(scenes: Path, name: str) -> None:
    config = PruningConfig.paper_default(FAMILIES[name], 0.2)
    expected, left = answers(name, rows_of("nano_mixed"), NEW_TOKENS["nano_mixed"], config)
    results, found = evaluated(scenes, name, ["nano_mixed"], 3, budget=0.2)
    assert found["nano_mixed"] == expected
    assert results["throughput"]["avg_visual_tokens_kept"] == pytest.approx(sum(left) / len(left))


@pytest.mark.parametrize("family", ["llava", *QWEN, *TILED])
def test_every_family(family: str, tmp_path: Path, images: list[Any]) -> None:
    make = tiny_qwen if family in QWEN else tiny_tiled
    made, processor = tiny_llava() if family == "llava" else make(family)
    made.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    name, asked = str(tmp_path), model(str(tmp_path), budget=0.3, batch_size=5)
    rows = [
        Row("Is there a star?", "", (images[0],)),
        Row("Hello?", "", ()),
        Row("What is the color of the dog?", "", (images[1], images[2])),
        Row("How many?", "", (images[3],)),
        Row("And a cat?", "", (images[2],)),
    ]
    config = PruningConfig.paper_default(registered_name(asked), 0.3)
    expected, left = answers(name, rows, 6, config)
    found = ask(asked, rows, {"max_new_tokens": 6})
    assert [answer.text for answer in found] == expected
    assert asked.kept_tokens == sum(left) < asked.visual_tokens


def registered_name(asked: Any) -> str:
    """The family that a model is served as."""
    return str(asked._attachment.backbone.family)


def test_pruning_is_at_work(scenes: Path, said: list[str]) -> None:
    whole, bare = evaluated(scenes, "nano-llava", ["nano_one"])
    results, found = evaluated(scenes, "nano-llava", ["nano_one"], budget=2)
    assert found != bare
    assert results["throughput"]["avg_visual_tokens_kept"] == 2
    assert "ResPrune kept 2.0 of 196.0 visual tokens an image on average (16 images)" in said
    pairs = zip(whole["samples"]["nano_one"], results["samples"]["nano_one"], strict=True)
    for one, other in pairs:
        counts = one["token_counts"][0]["input_tokens"], other["token_counts"][0]["input_tokens"]
        assert counts[0] - counts[1] == 196 - 2
        assert 1 <= other["token_counts"][0]["output_tokens"] <= 4


def test_tokens_dropped_inside_the_llm_are_told_apart(said: list[str]) -> None:
    asked = model(method="fastv", budget=20)
    ask(asked, rows_of("nano_one")[:2], {"max_new_tokens": 2})
    (line,) = [line for line in said if "ResPrune kept" in line]
    assert "kept 20.0 of 196.0" in line
    assert "averaged over the layers" in line


def test_images_that_were_not_pruned_are_an_error() -> None:
    asked = model(budget=20)
    ask(asked, rows_of("nano_one")[:1], {})
    asked._attachment.detach()
    with pytest.raises(ResPruneError, match="taken off"):
        ask(asked, rows_of("nano_one")[:1], {})
    asked = model(budget=20)
    attached = asked._attachment
    attached._has_images = lambda kwargs: False  # stands for any way past the pruning
    with pytest.raises(ResPruneError, match="1 images went through the model and 0 were pruned"):
        ask(asked, rows_of("nano_one")[:1], {})


def test_lmms_evals_cache_gives_the_same_answers(scenes: Path, tmp_path: Path) -> None:
    given = {"budget": 20, "use_cache": str(tmp_path)}
    _, first = evaluated(scenes, "nano-llava", ["nano_one"], **given)
    again, second = evaluated(scenes, "nano-llava", ["nano_one"], **given)
    assert first == second
    assert not again.get("throughput", {}).get("total_gen_tokens")
    _, other = evaluated(scenes, "nano-llava", ["nano_one"], **{**given, "budget": 2})
    assert other != first


# -- requests -----------------------------------------------------------------------------


def ask(asked: Any, rows: Sequence[Row], *gen_kwargs: Mapping[str, Any]) -> list[Any]:
    """Ask without a task; the last generation arguments serve all further rows."""

    def messages(doc: Row) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = [{"type": "image", "url": image} for image in doc.images]
        return [{"role": "user", "content": [*content, {"type": "text", "text": doc.question}]}]

    asked.task_dict = {"t": {"test": list(rows)}}
    given = [gen_kwargs[min(i, len(gen_kwargs) - 1)] for i in range(len(rows))]
    requests = [
        SimpleNamespace(args=("", messages, gen, i, "t", "test")) for i, gen in enumerate(given)
    ]
    return list(asked.generate_until(requests))


def test_requests_keep_their_order_and_arguments() -> None:
    rows = rows_of("nano_one")[:6]
    one, two = {"max_new_tokens": 1, "until": ["\n\n"]}, {"max_new_tokens": 4, "until": ["\n\n"]}
    before = json.dumps([one, two])
    found = ask(model(budget=20, batch_size=4), rows, one, two, one, two, one, two)
    assert json.dumps([one, two]) == before
    assert [answer.token_counts.output_tokens == 1 for answer in found] == [True, False] * 3
    config = PruningConfig.paper_default("llava", 20)
    for row, answer, given in zip(rows, found, [one, two] * 3, strict=True):
        assert [answer.text] == answers("nano-llava", [row], given["max_new_tokens"], config)[0]


def test_the_default_length_is_the_users() -> None:
    row = rows_of("nano_one")[:1]
    assert ask(model(max_new_tokens=1), row, {})[0].token_counts.output_tokens == 1
    given = {"max_new_tokens": 2}
    assert ask(model(max_new_tokens=1), row, given)[0].token_counts.output_tokens == 2


def test_until_cuts_an_answer() -> None:
    row = next(r for r in rows_of("nano_one") if r.answer == "yellow")
    assert ask(model(), [row], {"until": ["low"]})[0].text == "yel"


def test_sampling_is_asked_for() -> None:
    row = rows_of("nano_one")[:1] * 30
    asked = model(batch_size=30)
    torch.manual_seed(0)
    found = {a.text for a in ask(asked, row, {"max_new_tokens": 2, "temperature": 30.0})}
    assert len(found) > 3
    greedy = {"max_new_tokens": 2, "temperature": 30.0, "do_sample": False}
    assert len({answer.text for answer in ask(asked, row, greedy)}) == 1


def test_arguments_that_are_not_read_are_said_once(said: list[str]) -> None:
    ask(model(), rows_of("nano_one")[:2], {"image_aspect_ratio": "pad", "max_new_tokens": 1})
    assert [line for line in said if "not read" in line] == [
        "resprune: generation arguments not read: image_aspect_ratio"
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False, "temperature": None}),
        ({"max_new_tokens": 5, "num_beams": 3}, {"max_new_tokens": 5, "num_beams": 3}),
        ({"temperature": 0, "top_p": 0.9}, {"do_sample": False, "top_p": None}),
        ({"temperature": 0, "do_sample": True}, {"do_sample": False}),
        ({"temperature": 0.7, "top_p": 0.9}, {"do_sample": True, "temperature": 0.7, "top_p": 0.9}),
        ({"temperature": 0.7, "do_sample": False}, {"do_sample": False, "temperature": None}),
        ({"do_sample": True, "top_k": 5}, {"do_sample": True, "top_k": 5}),
        ({"num_beams": None, "until": ["x"]}, {"num_beams": 1}),
    ],
)
def test_generation_arguments(given: dict[str, Any], expected: dict[str, Any]) -> None:
    found = generate_arguments(given, MAX_NEW_TOKENS)
    assert {name: found[name] for name in expected} == expected
    assert "until" not in found


def test_stops() -> None:
    assert stops_of({}) == stops_of({"until": None}) == stops_of({"until": ["\n\n", ""]}) == []
    assert stops_of({"until": "\n"}) == ["\n"]
    assert trimmed("\n a b\nc ", ["\n", "b"]) == "a"
    assert ignored_arguments({"until": [], "n": 2, "m": None}) == ["n"]
    assert answer_ids(torch.tensor([5, 2, 0, 0]), {2}) == [5, 2]
    assert answer_ids(torch.tensor([5, 6]), {2}) == [5, 6]


def test_messages_become_a_prompt_and_images(tmp_path: Path) -> None:
    processor = loaded("nano-llava")[1]
    image = rows_of("nano_one")[0].images[0]
    image.save(tmp_path / "scene.png")
    contents = [
        {"type": "image", "url": str(tmp_path / "scene.png")},
        {"type": "image", "url": image.convert("L")},
        {"type": "text", "text": f"Is there{processor.image_token} a star?"},
    ]
    turn = read_messages(processor, [{"role": "user", "content": contents}])
    assert turn.prompt.count(processor.image_token) == 2
    assert "Is there a star?" in turn.prompt
    assert turn.images[0].tobytes() == image.tobytes()
    assert turn.images[1].mode == "RGB"
    with pytest.raises(ResPruneError, match="about a video, and resprune prunes images alone"):
        read_messages(processor, [{"role": "user", "content": [{"type": "video", "url": "x"}]}])


# -- arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"budgte": 3}, "no 'budgte'. Did you mean 'budget'"),
        ({"pretrained": None}, "no model; give pretrained=FOLDER_OR_HUB_ID"),
        ({"batch_size": "auto"}, "batch_size is 'auto'; give a whole number"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"dtype": "bf16"}, "dtype='bf16'. Did you mean 'bfloat16'"),
        ({"alpha": 0.5}, "alpha without a budget"),
        ({"method": "l2_norm"}, "method=l2_norm without a budget"),
        ({"method": "l2norm", "budget": 3}, "Did you mean 'l2_norm'"),
        ({"method": "l2_norm", "budget": 3, "alpha": 1.0}, "has no option 'alpha'"),
        ({"method": "downsample", "budget": 30}, "resize the images yourself"),
        ({"budget": 3, "positions": "kept"}, "unknown value 'kept'"),
        ({"config": "/nowhere"}, "/nowhere"),
        ({"config": "/nowhere", "method": "l2_norm"}, "leave out method, or config"),
        ({"config": "/nowhere", "positions": "keep"}, "leave out positions, or config"),
    ],
)
def test_wrong_arguments(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ResPruneError, match=message.replace("/", ".")):
        model(**given)


def test_a_budget_that_the_config_does_not_list(tmp_path: Path) -> None:
    PruningConfig.paper_default("llava", 43).save_pretrained(tmp_path)
    with pytest.raises(ResPruneError, match="budget 44 is not in the pruning config; it lists 43"):
        model(config=str(tmp_path), budget=44)


def test_a_config_of_another_family(tmp_path: Path) -> None:
    config = PruningConfig.single(43, backbone={"family": "qwen2_5_vl"})
    config.save_pretrained(tmp_path)
    with pytest.raises(ResPruneError, match="qwen2_5_vl"):
        model(config=str(tmp_path))


def test_an_energy_budget_is_written_as_json() -> None:
    asked = model(budget='{"energy": 0.5, "most": 30}')
    assert str(asked.pruning).startswith("resprune at budget energy 0.5 (1 to 30)")
    ask(asked, rows_of("nano_one")[:2], {"max_new_tokens": 1})
    assert 2 <= asked.kept_tokens <= 60


def test_what_is_not_offered_says_so() -> None:
    asked = model(budget=20)
    with pytest.raises(NotImplementedError, match="generates alone"):
        asked.loglikelihood([])
    with pytest.raises(NotImplementedError, match="several rounds"):
        asked.generate_until_multi_round([])


def test_cleaning_takes_the_pruning_off() -> None:
    asked = model(budget=20)
    bare, attached = asked._model, asked._attachment
    asked.clean()
    assert not attached.attached
    assert "generate" not in vars(bare)
    assert not hasattr(asked, "_model")
