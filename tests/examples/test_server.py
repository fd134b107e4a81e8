"""The example server: answers, records, limits, and what happens when something goes wrong."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image, PngImagePlugin

import resprune
from examples.server.answering import Answer, Answerer, Job
from examples.server.app import create_app
from examples.server.batching import Batcher
from examples.server.limits import Limits, Refused
from examples.server.load import check_bounds
from resprune import PruningConfig, Setting
from studies.nano import model_dir
from studies.nano.scenes import generate_scene
from studies.nano.splits import iter_questions

CONFIG = PruningConfig.from_dict(
    {
        "default": {"count": 22},
        "table": [
            *(Setting.of("resprune", budget, alpha=0.75) for budget in (22, 43)),
            Setting.of("unpruned", 1.0),
        ],
    }
)
LIMITS = Limits(
    body_bytes=200_000,
    pixels=50_000,
    images=2,
    question_characters=200,
    new_tokens=8,
    alpha=(0.0, 2.0),
    wait_seconds=0.2,
)


def png(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def questions(count: int) -> list[tuple[Image.Image, str]]:
    found = []
    for index in range(count):
        asked = iter_questions("monitor", 1, offset=8 * index)[0]
        found.append((generate_scene(asked.scene_seed).image, asked.text))
    return found


@pytest.fixture(scope="module")
def answerer() -> Answerer:
    return Answerer(str(model_dir("nano-llava")), CONFIG)


@pytest.fixture(scope="module")
def client(answerer: Answerer) -> Iterator[TestClient]:
    with TestClient(create_app(answerer, CONFIG, LIMITS)) as found:
        yield found


def post(client: TestClient, image: Image.Image, question: str, **fields: Any) -> Any:
    return client.post("/v1/answer", json={"image": png(image), "question": question, **fields})


def alone(answerer: Answerer, image: Image.Image, question: str, **options: Any) -> Any:
    """The same question by ``attach`` itself, by itself."""
    attached = answerer.attached
    text = attached.backbone.chat_prompt(question)
    inputs = answerer.processor(images=image, text=text, return_tensors="pt")
    output = answerer.model.generate(
        **inputs, query=question, max_new_tokens=8, do_sample=False, **options
    )
    new = output[0, inputs["input_ids"].shape[1] :]
    answer = answerer.processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    return answer, attached.last


def test_concurrent_answers_and_records_are_each_requests_own(
    client: TestClient, answerer: Answerer
) -> None:
    asked = questions(32)
    fields: list[dict[str, Any]] = [{}, {"budget": 43}, {"budget": 43, "alpha": 0.0}, {}]
    with ThreadPoolExecutor(16) as pool:
        replies = list(
            pool.map(
                lambda i: post(client, *asked[i], **fields[i % 4], max_new_tokens=8, kept=True),
                range(len(asked)),
            )
        )
    batched = client.get("/metrics").text
    assert 'batch_size_bucket{le="1.0"} 32.0' not in batched  # some were answered together
    answers = set()
    for i, (reply, (image, question)) in enumerate(zip(replies, asked, strict=True)):
        assert reply.status_code == 200, reply.text
        found = reply.json()
        answer, record = alone(answerer, image, question, **fields[i % 4])
        assert found["answer"] == answer
        assert found["record"]["question"] == question
        assert found["record"]["kept"] == [record.kept[0].tolist()]
        assert found["record"]["nouns"] == record.nouns[0]
        assert found["record"]["prompt_tokens_kept"] == len(record.kept_positions[0])
        options = record.settings[0].options.model_dump(mode="json")
        assert found["record"]["options"] == [options]
        answers.add(answer)
    assert len(answers) > 5


def test_two_images_and_everything_kept(client: TestClient) -> None:
    (image, question), (other, _) = questions(2)
    body = {"images": [png(image), "data:image/png;base64," + png(other)], "question": question}
    found = client.post("/v1/answer", json=body).json()["record"]
    assert found["visual_tokens"] == [196, 196]
    assert found["kept_tokens"] == [22, 22]
    assert "kept" not in found
    whole = post(client, image, question, budget=1.0).json()["record"]
    assert whole["pruned"] is False
    assert whole["prompt_tokens"] > 196


def bomb(edge: int = 10_000) -> str:
    """A small file that unpacks to 100 megapixels."""
    content = io.BytesIO()
    Image.new("1", (edge, edge)).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def larger_bomb() -> str:
    return bomb(20_000)


def broken() -> str:
    whole = base64.b64decode(png(Image.effect_noise((100, 100), 50)))
    return base64.b64encode(whole[: len(whole) // 2]).decode()


def gif() -> str:
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "GIF")
    return base64.b64encode(content.getvalue()).decode()


def text_bomb() -> str:
    """A PNG whose comment unpacks to 64 megabytes."""
    extra = PngImagePlugin.PngInfo()
    extra.add_text("comment", "x" * (64 << 20), zip=True)
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "PNG", pnginfo=extra)
    return base64.b64encode(content.getvalue()).decode()


GOOD = png(Image.new("RGB", (8, 8), "red"))


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"image": "no base64!"}, 422, "not base64"),
        ({"image": base64.b64encode(b"<svg/>").decode()}, 415, "none of PNG, JPEG, WEBP"),
        ({"image": gif}, 415, "none of PNG"),
        ({"image": bomb}, 413, "10000 x 10000 pixels; at most 50000"),
        ({"image": larger_bomb}, 413, "over 50000 pixels"),
        ({"image": text_bomb}, 422, "broken"),
        ({"image": broken}, 422, "broken"),
        ({"image": None}, 422, "0 images; give 1 to 2"),
        ({"images": [GOOD, GOOD, GOOD]}, 422, "4 images"),
        ({"question": "x" * 201}, 422, "over 200 characters"),
        ({"question": ""}, 422, "question"),
        ({"budget": 23}, 400, "budget 23 is not offered; offered are 22, 43, 1.0"),
        ({"budget": "43"}, 422, "budget"),
        ({"budget": True}, 422, "budget"),
        ({"alpha": 2.5}, 400, "give 0.0 to 2.0"),
        ({"alpha": 0.5, "budget": 1.0}, 400, "no option 'alpha'"),
        ({"max_new_tokens": 9}, 400, "over 8"),
        ({"max_new_tokens": 0}, 422, "max_new_tokens"),
        ({"beams": 3}, 422, "beams"),
    ],
)
def test_bad_requests_are_refused_and_the_server_lives_on(
    client: TestClient, fields: dict[str, Any], status: int, message: str
) -> None:
    body = {"image": GOOD, "question": "what color is the star?", **fields}
    body = {name: value() if callable(value) else value for name, value in body.items()}
    reply = client.post("/v1/answer", json=body)
    assert (reply.status_code, message in reply.json()["error"]) == (status, True), reply.text
    assert post(client, Image.new("RGB", (8, 8)), "what color is the star?").status_code == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"alpha": NaN}', b"\xff\xfe"])
def test_a_body_that_is_no_request(client: TestClient, body: bytes) -> None:
    assert client.post("/v1/answer", content=body).status_code == 422


def test_a_large_body_is_not_read(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    import examples.server.app as app

    monkeypatch.setattr(app, "_read", lambda _: pytest.fail("it was parsed"))
    large = b'{"question": "' + b"x" * 10_000_000 + b'"}'
    assert client.post("/v1/answer", content=large).status_code == 413
    pulled = 0

    def parts() -> Iterator[bytes]:  # sent without saying how long it is
        nonlocal pulled
        for start in range(0, len(large), 65_536):
            pulled += 1
            yield large[start : start + 65_536]

    assert client.post("/v1/answer", content=parts()).status_code == 413


def test_alpha_is_not_offered_by_default(answerer: Answerer) -> None:
    with TestClient(create_app(answerer, CONFIG, replace(LIMITS, alpha=None), [43])) as client:
        reply = post(client, *questions(1)[0], alpha=0.5)
        assert (reply.status_code, "none may be given" in reply.text) == (400, True)
        assert post(client, *questions(1)[0], budget=22).status_code == 400
        assert client.get("/v1/config").json()["budgets"] == [43]
        assert client.get("/healthz").json() == {"status": "ok"}
    with pytest.raises(resprune.ResPruneError, match="it lists 22, 43"):
        create_app(answerer, CONFIG, LIMITS, [7])


def test_metrics_add_up(answerer: Answerer) -> None:
    with TestClient(create_app(answerer, CONFIG, LIMITS)) as client:
        for image, question in questions(3):
            post(client, image, question)
        post(client, *questions(1)[0], budget=7)
        found = client.get("/metrics").text
    assert 'requests_total{status="200"} 3.0' in found
    assert 'requests_total{status="400"} 1.0' in found
    assert "visual_tokens_total 588.0" in found
    assert "visual_tokens_kept_total 66.0" in found
    assert "answer_seconds_count 3.0" in found


# -- the queue, with a model that is told what to do ----------------------------------------


def job(question: str = "q", budget: int = 22) -> Job:
    return Job((Image.new("RGB", (1, 1)),), question, budget, None, 1)


def batcher(answer: Callable[[Sequence[Job]], list[Answer]], **limits: Any) -> Batcher:
    return Batcher(answer, replace(LIMITS, **limits))


def answers(jobs: Sequence[Job]) -> list[Answer]:
    return [Answer(job.question, True, {"pruned": False}) for job in jobs]


def test_only_requests_that_go_together_are_batched() -> None:
    seen: list[list[tuple[str, Any]]] = []

    def answer(jobs: Sequence[Job]) -> list[Answer]:
        seen.append([(job.question, job.budget) for job in jobs])
        return answers(jobs)

    own = batcher(answer, batch=3)
    futures = [own.submit(job(str(i), (22, 43)[i % 2])) for i in range(8)]
    assert [future.result(5).text for future in futures] == [str(i) for i in range(8)]
    own.close()
    assert all(len({budget for _, budget in batch}) == 1 for batch in seen)
    assert sorted(map(len, seen)) == [1, 1, 3, 3]


def test_a_failing_request_fails_alone() -> None:
    def answer(jobs: Sequence[Job]) -> list[Answer]:
        if any(job.question == "bad" for job in jobs):
            raise RuntimeError("/secret/path")
        return answers(jobs)

    own = batcher(answer)
    futures = [own.submit(job(question)) for question in ("a", "bad", "b")]
    assert [futures[0].result(5).text, futures[2].result(5).text] == ["a", "b"]
    with pytest.raises(RuntimeError):
        futures[1].result(5)
    own.close()
    with TestClient(create_app(answer, CONFIG, LIMITS)) as client:
        reply = post(client, Image.new("RGB", (1, 1)), "bad")
        assert reply.status_code == 500
        assert "secret" not in reply.text
        assert post(client, Image.new("RGB", (1, 1)), "good").status_code == 200


def test_a_full_queue_and_one_that_left() -> None:
    busy, go = threading.Event(), threading.Event()
    seen: list[str] = []

    def answer(jobs: Sequence[Job]) -> list[Answer]:
        busy.set()
        go.wait(5)
        seen.extend(job.question for job in jobs)
        return answers(jobs)

    own = batcher(answer, queue=2, batch=1, wait_seconds=0)
    first = own.submit(job("first"))
    busy.wait(5)
    left, last = own.submit(job("left")), own.submit(job("last"))
    with pytest.raises(Refused, match="too many") as refused:
        own.submit(job("over"))
    assert refused.value.status == 503
    left.cancel()
    go.set()
    assert [first.result(5).text, last.result(5).text] == ["first", "last"]
    own.close()
    assert seen == ["first", "last"]
    with pytest.raises(Refused, match="stops"):
        own.submit(job())


def test_a_request_that_takes_too_long() -> None:
    def answer(jobs: Sequence[Job]) -> list[Answer]:
        time.sleep(1.5)
        return answers(jobs)

    with TestClient(create_app(answer, CONFIG, replace(LIMITS, answer_seconds=0.3))) as client:
        reply = post(client, Image.new("RGB", (1, 1)), "slow")
        assert reply.status_code == 504


def test_the_load_test_is_bounded() -> None:
    check_bounds("http://127.0.0.1:8000", 10, [1])
    check_bounds("http://localhost:8000", 10, [1])
    check_bounds("http://[::1]:8000", 10, [1])
    for url in ("http://example.org", "http://10.0.0.1:8000", "http://localhost.example.org"):
        with pytest.raises(SystemExit, match="this machine"):
            check_bounds(url, 10, [1])
    with pytest.raises(SystemExit, match="at most"):
        check_bounds("http://127.0.0.1", 10**6, [1])
