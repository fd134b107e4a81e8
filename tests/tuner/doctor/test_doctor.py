"""The doctor sees what the LLM ran on, whatever the attachment says of itself."""

from __future__ import annotations

import contextlib
import json
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from resprune import PruningConfig, Setting, attach, backbones
from resprune.certificate import Certificate as Sealed
from resprune.certificate import CertifySplit, Claim, policy_digest
from resprune.certificate import Tested as Row
from resprune.testing.tiny import tiny_llava as make_tiny
from resprune.testing.tiny import tiny_tiled
from studies import nano
from tuner import cli
from tuner.doctor import active, diagnose, environment, storage
from tuner.doctor.active import NotAsRecorded, examine
from tuner.doctor.diagnose import Patient, look_at
from tuner.doctor.schema import Diagnosis
from tuner.doctor.speed import judge
from tuner.doctor.words import certificate_text, say_activity
from tuner.efficiency.measure import ImagePrompt
from tuner.output.doctor import show_diagnosis
from tuner.predict import load_model
from tuner.scoring.visual import processed

CONFIG = PruningConfig.single(22, alpha=0.75, seed_strategy="cls_attention")


def patient(name, config, question="What color is the star?"):
    backbone = load_model(config, name, "test")
    prompt = ImagePrompt(diagnose._scene(name), backbone.chat_prompt(question))
    return Patient(name, backbone, config, prompt)


@pytest.fixture(scope="module")
def llava():
    return patient("nano-llava", CONFIG)


def seen(which, config=None):
    inputs = processed(which.backbone, [[which.prompt.image]], [which.prompt.text])
    return examine(which.backbone, config or which.config, inputs, model=which.name)


def call(capsys, *arguments):
    """Run the command line in this process; (exit code, stdout, stderr)."""
    with pytest.raises(SystemExit) as caught:
        cli.app([str(argument) for argument in arguments])
    out = capsys.readouterr()
    return caught.value.code or 0, out.out, out.err


def line(diagnosis, name):
    return next(finding for finding in diagnosis["findings"] if finding["name"] == name)


# -- is it active ------------------------------------------------------------------------------


def test_an_active_config(llava):
    found = seen(llava)
    inputs = processed(llava.backbone, [[llava.prompt.image]], [llava.prompt.text])
    text = int((inputs["input_ids"] != llava.backbone.image_token_id).sum())
    assert found.active
    assert found.why == ""
    assert (found.rows_whole, found.rows) == (text + 196, text + 22)
    assert set(found.rows_by_layer) == {text + 22}
    (image,) = found.images
    assert (image.visual_tokens, image.kept, image.left, image.newlines) == (196, 22, 22, 0)
    assert image.patches is None
    assert found.next_position == text + 196  # positions are kept
    assert found.nouns == ("color", "star")
    assert (found.unpruned, found.pruned) == ("yellow", "yellow")
    assert found.logit_change > 0
    assert not hasattr(llava.backbone.model.generate, "resprune_attachment")


def test_positions_that_are_compact(llava):
    config = PruningConfig.single(22, alpha=0.75, positions="compact")
    found = seen(llava, config)
    assert found.next_position == found.rows


def test_an_attach_that_does_nothing_is_a_problem(llava, monkeypatch):
    monkeypatch.setattr(
        active, "attach", lambda *_, **__: contextlib.nullcontext(SimpleNamespace(last=None))
    )
    found = seen(llava)
    assert not found.active
    assert "attach left the model as it was" in found.why
    (problem,) = [f for f in say_activity(found, CONFIG) if f.level == "problem"]
    assert problem.name == "pruning"
    assert "207 of 207 rows entered the LLM" in problem.text


def test_a_record_that_lies_is_a_problem(llava, monkeypatch):
    with attach(llava.backbone.model, llava.backbone.processor, CONFIG) as attachment:
        llava.backbone.model.generate(
            **processed(llava.backbone, [[llava.prompt.image]], [llava.prompt.text]),
            max_new_tokens=1,
            do_sample=False,
        )
    monkeypatch.setattr(active, "attach", lambda *_, **__: contextlib.nullcontext(attachment))
    with pytest.raises(NotAsRecorded, match=r"22 image tokens .*, and 207 rows entered"):
        seen(llava)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (PruningConfig.single(196, alpha=0.75), "the budget 196 keeps all 196 visual tokens"),
        (PruningConfig.single(1.0, alpha=0.75), "the budget 1.0 keeps all 196 visual tokens"),
        (
            PruningConfig.from_dict(
                {"default": 1.0, "table": [Setting.of("unpruned", 1.0).model_dump(mode="json")]}
            ),
            "the policy is 'unpruned'",
        ),
    ],
)
def test_a_budget_that_prunes_nothing(llava, config, why):
    found = seen(llava, config)
    assert not found.active
    assert found.why.startswith(why)
    assert found.rows == found.rows_whole


def test_text_alone_and_a_video(llava, monkeypatch):
    tokenizer = llava.backbone.tokenizer
    inputs = dict(tokenizer("what color is the star?", return_tensors="pt"))
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    found = examine(llava.backbone, CONFIG, inputs, model="nano-llava")
    assert (found.active, found.images) == (False, ())
    assert "the prompt has no image" in found.why
    monkeypatch.setattr(type(llava.backbone), "has_video", lambda *_: True)
    found = seen(llava)
    assert not found.active
    assert found.why.startswith("the prompt has a video")
    assert any("has a video" in text for text in found.warnings)


def test_a_method_inside_the_llm_is_seen_by_layer(llava):
    found = seen(llava, PruningConfig.single(22, method="fastv"))
    assert found.active
    assert found.rows == found.rows_whole  # it drops later
    assert found.rows_by_layer == (207, 33, 33, 33)
    assert (found.images[0].kept, found.images[0].left) == (196, 22)
    said = {f.name: f.text for f in say_activity(found, CONFIG)}
    assert "its layers cached 207, 33, 33, 33" in said["pruning"]
    assert "22 left in the last layer" in said["image"]


# -- what an image is made of ------------------------------------------------------------------


def test_tiles_and_newlines_of_llava_next():
    which = patient("nano-llava-next", PruningConfig.single(60, alpha=0.75))
    found = seen(which)
    (image,) = found.images
    assert [(t.tile, t.visual_tokens) for t in image.tiles] == [(0, 196), (1, 196), (2, 196)]
    assert sum(tile.kept for tile in image.tiles) == image.kept == 60
    assert (image.visual_tokens, image.newlines, found.newlines_kept) == (588, 14, 0)
    assert found.rows_whole - found.rows == 588 + 14 - 60
    whole = seen(which, PruningConfig.single(999, alpha=0.75))
    assert (whole.active, whole.newlines_kept) == (False, 14)
    assert "keeps all 588" in whole.why


def test_the_merger_of_qwen():
    which = patient("nano-qwen2.5-vl", PruningConfig.single(0.1, alpha=0.3))
    found = seen(which)
    (image,) = found.images
    assert (image.patches, image.visual_tokens, image.kept) == (784, 196, 20)
    assert image.patches == 4 * image.visual_tokens
    said = {f.name: f.text for f in say_activity(found, which.config)}
    assert "784 patches before the merger, which makes one token of 4" in said["image"]
    # M-RoPE: the image's places are as far apart as its edge, not as its count
    assert found.next_position == found.rows_whole - 196 + 14


@pytest.mark.parametrize("family", ["internvl", "gemma3", "idefics3", "llava_onevision"])
def test_other_families(family, images):
    backbone = backbones.for_model(*tiny_tiled(family))
    prompt = ImagePrompt(images[0], backbone.chat_prompt("What is on the table?"))
    config = PruningConfig.single(3, alpha=0.5)
    found = examine(
        backbone, config, processed(backbone, [[prompt.image]], [prompt.text]), model=family
    )
    assert found.active
    assert found.family == family
    assert found.kept == 3 * len(found.images)
    assert found.newlines_kept == 0


# -- the speed ---------------------------------------------------------------------------------


def test_the_speed_is_held_against_the_arithmetic(llava):
    found = look_at(llava)
    speed = found.speed
    assert not isinstance(speed, str)
    assert speed is not None
    row = speed.measured.rows[-1]
    assert speed.flops_share == pytest.approx(
        row.prefill_flops / speed.measured.rows[0].prefill_flops
    )
    assert speed.expected_prefill > speed.expected > 1
    assert 0 < speed.prefill_share + speed.vision_share < 1
    assert bool(speed.reasons) == (speed.ratio < speed.expected)


def test_a_reason_is_given_where_the_selection_is_slow(llava):
    speed = look_at(llava).speed
    whole, row = speed.measured.rows
    fast = {"median": 0.0, "low": 0.0, "high": 0.0}
    slow = {"median": 500.0, "low": 500.0, "high": 500.0}
    data = row.model_dump(mode="json") | {"select_ms": slow, "read_ms": fast}
    data["first_token"] = {"ratio": 0.1, "low": 0.1, "high": 0.1}
    made = speed.measured.model_validate(
        speed.measured.model_dump(mode="json") | {"rows": [whole.model_dump(mode="json"), data]}
    )
    assert judge(made).reasons[0] == "choosing the tokens takes 500.0 ms"
    assert not any("reading" in reason for reason in judge(made).reasons)
    data["first_token"] = {"ratio": 99.0, "low": 98.0, "high": 99.0}
    made = speed.measured.model_validate(
        speed.measured.model_dump(mode="json") | {"rows": [whole.model_dump(mode="json"), data]}
    )
    assert judge(made).reasons == ()


# -- what the config certifies -----------------------------------------------------------------


def test_the_certificate_of_the_budget():
    table = [Setting.of("resprune", count, alpha=0.75) for count in (43, 22, 11)]
    order = tuple(
        Row(
            budget=policy.budget,
            tokens=policy.budget.count,
            p_value=p,
            loss=0.01,
            certified=p < 0.05,
            policy=policy_digest(policy, None),
            worse=1,
            better=0,
        )
        for policy, p in zip(table[:2], (0.01, 0.2), strict=True)
    )
    split = CertifySplit(name="certify", offset=0, samples=600, images=600, questions_per_image=1)
    sealed = Sealed.sealed(
        claim=Claim(loss=0.02),
        test="exact",
        metric="score",
        split=split,
        attempt=1,
        order=order,
        choices="0" * 32,
    )
    for policy, start in zip(
        table, ("certified at budget 43: ", "NOT certified at", "nothing is certified"), strict=True
    ):
        config = PruningConfig.from_dict(
            {
                "default": policy.model_dump(mode="json")["budget"],
                "table": [each.model_dump(mode="json") for each in table],
                "certificate": sealed.model_dump(mode="json"),
            }
        )
        assert certificate_text(config).startswith(start)


# -- the machine -------------------------------------------------------------------------------


def test_versions_come_from_the_package_itself():
    found = {finding.name: finding for finding in environment.packages()}
    for name in ("torch", "transformers", "optuna", "spacy", "datasets", "tokenizers"):
        assert found[name].level == "ok"
        assert found[name].text.startswith(metadata.version(name))
    assert f"wanted {'>=5'}" in found["optuna"].text
    assert "vllm" not in found


def test_an_old_or_missing_package_is_a_problem(monkeypatch):
    true = metadata.version

    def version(name):
        if name == "spacy":
            raise metadata.PackageNotFoundError(name)
        return {"transformers": "5.17.9", "scikit-image": "0.1"}.get(name) or true(name)

    monkeypatch.setattr(environment.metadata, "version", version)
    found = {finding.name: finding for finding in environment.packages()}
    assert found["transformers"].level == "problem"
    assert "5.17.9, and >=5.18 is needed: pip install -U" in found["transformers"].text
    assert found["spacy"].level == "problem"
    assert found["spacy"].text.startswith("not installed; >=3.8 is needed")
    assert found["torch"].level == "ok"
    optional = {finding.name: finding for finding in environment.optional_packages()}
    assert optional["scikit-image"].level == "note"  # nothing needs it


def test_nouns_that_are_not_read_are_a_problem(monkeypatch):
    assert environment.noun_pipeline().level == "ok"
    monkeypatch.setattr(environment.NounExtractor, "nouns", lambda *_: ["what"])
    assert environment.noun_pipeline().level == "problem"


def test_more_threads_than_cores_are_a_note(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10_000)
    cpu = next(finding for finding in environment.devices() if finding.name == "CPU")
    assert cpu.level == "note"


def test_storage(tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "mine"
    (folder / "cache").mkdir(parents=True)
    (folder / "cache" / "visual-1.safetensors").write_bytes(bytes(2500))
    (folder / "outcomes.sqlite").write_bytes(bytes(700))
    (tmp_path / "runs" / "other").mkdir()
    found = {f.name: f for f in storage.look_at_storage(tmp_path / "runs")}
    assert found[str(folder)].text == "visual cache 2.5 kB, outcomes 700 B"
    assert str(tmp_path / "runs" / "other") not in found
    assert found[str(tmp_path / "runs")].text == "writable"
    new = {f.name: f for f in storage.look_at_storage(tmp_path / "new" / "runs")}
    assert new[str(tmp_path / "new" / "runs")].level == "ok"
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    bad = {f.name: f for f in storage.look_at_storage(tmp_path / "file" / "runs")}
    assert bad[str(tmp_path / "file" / "runs")].level == "problem"
    monkeypatch.setattr(storage, "LEAST_FREE", 1 << 80)
    full = {f.name: f for f in storage.look_at_storage(tmp_path)}
    assert full["disk"].level == "note"


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def config_dir(tmp_path):
    rows = [
        Setting.of("resprune", 22, alpha=0.75, seed_strategy="cls_attention"),
        Setting.of("resprune", 196, alpha=0.75, seed_strategy="cls_attention"),
    ]
    made_for = {"family": "llava", "id": "nano-llava"}
    data = {"backbone": made_for, "table": rows, "default": 22}
    PruningConfig.from_dict(data).save_pretrained(tmp_path / "config")
    return tmp_path / "config"


def test_the_command_alone(capsys, tmp_path):
    code, out, err = call(capsys, "doctor", "--runs", tmp_path)
    assert code == 0, out + err
    assert out.splitlines()[-1] == "no problem found"
    assert {"packages", "optional", "devices", "nouns", "storage"} <= set(out.split())


def test_the_command_on_a_config(capsys, config_dir, tmp_path):
    arguments = ("doctor", config_dir, "--no-speed", "--json", "--runs", tmp_path)
    code, out, err = call(capsys, *arguments)
    assert code == 0, err
    found = json.loads(out)
    assert Diagnosis.model_validate(found).problems == 0
    assert found["activity"]["active"] is True
    assert found["activity"]["images"][0]["kept"] == 22
    assert line(found, "pruning")["text"].startswith("ACTIVE: 33 rows entered the LLM, 207 ")
    code, out, _ = call(capsys, *arguments, "--budget", 196)
    found = json.loads(out)
    assert (code, found["problems"], found["activity"]["active"]) == (1, 1, False)
    assert line(found, "pruning")["level"] == "problem"


def test_what_does_not_fit_together_is_a_problem(capsys, config_dir, tmp_path):
    arguments = ("doctor", config_dir, "--no-speed", "--json", "--runs", tmp_path)
    code, out, _ = call(capsys, *arguments, "--model", "nano-qwen2.5-vl")
    found = json.loads(out)
    assert (code, found["activity"]) == (1, None)
    assert "made for family 'llava'" in line(found, "pruning")["text"]


def test_an_image_and_a_question(capsys, config_dir, tmp_path):
    diagnose.example_image().save(tmp_path / "scene.png")
    code, out, _ = call(
        capsys,
        *("doctor", config_dir, "--no-speed", "--json", "--runs", tmp_path),
        *("--image", tmp_path / "scene.png", "--question", "How many circles are there?"),
    )
    assert code == 0
    assert json.loads(out)["activity"]["nouns"] == ["circles"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "error: nowhere: no such folder"),
        (["--model", "nano-lava"], "error: backbone.model: 'nano-lava' is no embedded model"),
        (["--model", "nano-llava", "--budget", "0"], "error: "),
        (["--budget", "11"], "error: --budget is about a model"),
        (["--model", "nano-llava", "--image", "gone.png"], "error: gone.png"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, arguments, message):
    code, out, err = call(capsys, "doctor", *arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(message)


def test_a_budget_that_the_config_lacks(capsys, config_dir):
    code, _, err = call(capsys, "doctor", config_dir, "--budget", 23)
    assert code == 2
    assert "budget 23 is not in the pruning config; it lists 22, 196" in err


def test_problems_are_named_at_the_end(capsys, monkeypatch, tmp_path):
    true = metadata.version
    monkeypatch.setattr(
        environment.metadata, "version", lambda name: "1.0" if name == "torch" else true(name)
    )
    code, out, _ = call(capsys, "doctor", "--runs", tmp_path)
    assert code == 1
    assert out.splitlines()[-1] == "1 problem: torch"


def test_brackets_are_printed_as_they_are():
    finding = {"area": "pruning", "name": "[x]", "level": "note", "text": "kept [bold]all[/bold]"}
    found = Diagnosis.model_validate({"version": "1", "problems": 0, "findings": [finding]})
    console = Console(width=100, record=True)
    show_diagnosis(found, console)
    text = console.export_text()
    assert "[x]" in text
    assert "kept [bold]all[/bold]" in text


def test_a_model_folder_without_a_config(capsys, tmp_path):
    folder = tmp_path / "tiny"
    model, _ = make_tiny(folder=folder)
    model.save_pretrained(folder)
    code, out, err = call(
        capsys, "doctor", "--model", folder, "--budget", 4, "--no-speed", "--json"
    )
    assert code == 0, err
    found = json.loads(out)["activity"]
    assert (found["images"][0]["visual_tokens"], found["images"][0]["kept"]) == (16, 4)
    assert nano.model_names()
