"""Plans -> outcomes: batches through ``backbone.prepare`` and the LLM, the path of ``attach``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from resprune import methods
from resprune.backbones import Backbone, Prepared, VisualTokens
from resprune.layers import LayerPruner
from resprune.plan import Plan, made_by, parted
from tuner.scoring.metrics import Kind
from tuner.scoring.outcomes import Outcome
from tuner.scoring.prompts import Prompts

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_TOKENS_PER_ROW = 80  # longer rows go in smaller batches
_PADDING = 0.1  # share by which the kept counts of a batch may differ where T varies


class Job(NamedTuple):
    """One outcome to compute: a sample and its plan."""

    sample: int
    plan: Plan


class Runner:
    """Computes outcomes of one split's samples.

    Args:
        backbone: The model.
        visual: Returns the encoded images of a sample.
        prompts: Its prompts.
        max_new_tokens: Tokens an answer needs at most.
        batch_size: Rows of one prefill.
        workers: Batches that run at once.
    """

    def __init__(
        self,
        backbone: Backbone,
        visual: Callable[[int], Sequence[VisualTokens]],
        prompts: Prompts,
        *,
        max_new_tokens: int,
        batch_size: int,
        workers: int,
    ) -> None:
        self._backbone = backbone
        self._visual = visual
        self._prompts = prompts
        self._max_new_tokens = max_new_tokens
        self._batch_size = batch_size
        self._workers = workers
        self._texts: dict[tuple[int, ...], str] = {}

    def run(self, jobs: Sequence[Job], kind: Kind) -> Iterator[tuple[list[int], list[Outcome]]]:
        """Compute the outcomes of jobs, a batch at a time.

        Args:
            jobs: What to compute.
            kind: ``answer``, or the ``log_likelihood`` of the gold answer.

        Yields:
            Places in ``jobs``, and their outcomes.
        """
        step = self._answer if kind == "answer" else self._likelihood
        ids = self._prompts.ids if kind == "answer" else self._prompts.gold
        yield from self._run(jobs, ids, step)

    def chances(
        self, jobs: Sequence[Job], prompts: Prompts
    ) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Compute what the model expects at each token of given answers, and after them.

        Args:
            jobs: What to compute.
            prompts: The prompts with these answers as the gold ones, of n tokens.

        Yields:
            Places in ``jobs``, and log-probabilities, shape (n + 1, V), float32, on the CPU.
        """

        def step(batch: list[Job], pruner: LayerPruner | None) -> list[Tensor]:
            return self._chances(batch, prompts, pruner, end=True)

        yield from self._run(jobs, prompts.gold, step)

    def _run(
        self,
        jobs: Sequence[Job],
        ids: Sequence[Tensor],
        step: Callable[[list[Job], LayerPruner | None], list[_Out]],
    ) -> Iterator[tuple[list[int], list[_Out]]]:
        batches = self._batches(jobs, ids)
        ruled = any(job.plan.rule is not None for job in jobs)
        with LayerPruner(self._backbone) if ruled else nullcontext() as pruner:
            outcomes = in_threads(
                lambda b: step([jobs[i] for i in b], pruner), batches, self._workers
            )
            yield from zip(batches, outcomes, strict=True)

    def _batches(self, jobs: Sequence[Job], ids: Sequence[Tensor]) -> list[list[int]]:
        """Cut jobs into batches of equal or, where T varies, near count that enters, and length.

        One batch has one way to prune inside the LLM.
        """

        def shape(job: Job) -> tuple[str, str, int, int]:
            plan, rule = job.plan, job.plan.rule
            way = "" if rule is None else made_by(methods.get(rule.method), rule.options)
            return plan.positions, way, len(plan.kept), len(ids[job.sample])

        waiting = sorted(range(len(jobs)), key=lambda i: shape(jobs[i]))
        batches = []
        start = 0
        while start < len(waiting):
            first = jobs[waiting[start]]
            *way, k, length = shape(first)
            text = length - sum(len(image.tokens) for image in self._visual(first.sample))
            rows = max(1, self._batch_size * _TOKENS_PER_ROW // max(_TOKENS_PER_ROW, k + text))
            most = k * (1 + _PADDING) if self._backbone.visual_tokens is None else k
            batch = [
                i
                for i in waiting[start : start + rows]
                if [*shape(jobs[i])[:2]] == way and len(jobs[i].plan.kept) <= most
            ]
            batches.append(batch)
            start += len(batch)
        return batches

    @torch.inference_mode()
    def _answer(self, jobs: list[Job], pruner: LayerPruner | None) -> list[Outcome]:
        prepared = self._prepared(self._prompts.ids, jobs)
        kwargs = prepared.kwargs
        with _inside(jobs, prepared, pruner):
            output = self._backbone.model.generate(
                **kwargs,
                max_new_tokens=self._max_new_tokens,
                do_sample=False,
                num_beams=1,
                use_cache=True,
                output_logits=True,
                return_dict_in_generate=True,
            )
        answers = output.sequences[:, kwargs["input_ids"].shape[1] :].tolist()
        chances = output.logits[0].float().log_softmax(dim=-1).cpu()
        found = []
        for j, (job, answer) in enumerate(zip(jobs, answers, strict=True)):
            gold = self._prompts.answer(job.sample)[:1].tolist()
            likelihood = float(chances[j, gold[0]]) if gold else None
            found.append(Outcome(self._text(tuple(answer)), likelihood))
        return found

    def _text(self, tokens: tuple[int, ...]) -> str:
        if tokens not in self._texts:
            decoded = self._backbone.processor.tokenizer.decode(tokens, skip_special_tokens=True)
            self._texts[tokens] = str(decoded).strip()
        return self._texts[tokens]

    def _likelihood(self, jobs: list[Job], pruner: LayerPruner | None) -> list[Outcome]:
        """Sum the log-probabilities of the gold answer's tokens, given the prompt and each other.

        Source: teacher forcing, as lm-evaluation-harness does for ``loglikelihood``.
        """
        found = []
        for job, chances in zip(jobs, self._chances(jobs, self._prompts, pruner), strict=True):
            gold = self._prompts.answer(job.sample)
            taken = chances.gather(1, gold[:, None])
            found.append(Outcome(None, float(taken.double().sum())))
        return found

    @torch.inference_mode()
    def _chances(
        self, jobs: list[Job], prompts: Prompts, pruner: LayerPruner | None, *, end: bool = False
    ) -> list[Tensor]:
        """Return the log-probabilities at each of a job's n answer tokens, (n, V); ``end``: n + 1.

        Under a method inside the LLM the prompt alone goes first: in one pass with the answer it
        would choose by the answer's tokens.
        """
        counts = [len(prompts.answer(job.sample)) for job in jobs]
        if jobs[0].plan.rule is not None:
            logits = self._logits_after_prompt(jobs, prompts, pruner, end)
            starts = [0] * len(jobs)
        else:
            most = max(counts)
            kwargs = self._prepared(prompts.gold, jobs).kwargs
            logits = self._backbone.model(**kwargs, logits_to_keep=most + 1, use_cache=False).logits
            starts = [most - n for n in counts]
        return [
            logits[j, start : start + n + end].float().log_softmax(dim=-1).cpu()
            for j, (start, n) in enumerate(zip(starts, counts, strict=True))
        ]

    def _logits_after_prompt(
        self, jobs: list[Job], prompts: Prompts, pruner: LayerPruner | None, end: bool
    ) -> Tensor:
        """Return the logits from the last token of each prompt on, shape (B, longest, V)."""
        prepared = self._prepared(prompts.ids, jobs)
        given = prepared.kwargs
        device = given["input_ids"].device
        answers = [prompts.answer(job.sample) for job in jobs]
        gold = pad_sequence(answers, batch_first=True).to(device)
        lengths = torch.tensor([len(answer) for answer in answers])
        there = (torch.arange(gold.shape[1]) < lengths[:, None]).to(device)
        fed = gold.shape[1] - (not end)
        model = self._backbone.model
        with _inside(jobs, prepared, pruner):
            first = model(**given, logits_to_keep=1, use_cache=True)
            logits: Tensor = first.logits[:, -1:]
            if fed > 0:
                seen = there[:, :fed].to(given["attention_mask"].dtype)
                rest = model(
                    input_ids=gold[:, :fed],
                    attention_mask=torch.cat([given["attention_mask"], seen], dim=1),
                    position_ids=_following(prepared, fed),
                    past_key_values=first.past_key_values,
                    use_cache=True,
                )
                logits = torch.cat([logits, rest.logits], dim=1)
        return logits

    def _prepared(self, ids: Sequence[Tensor], jobs: list[Job]) -> Prepared:
        device = self._backbone.model.device
        rows = [ids[job.sample] for job in jobs]
        width = max(len(row) for row in rows)
        padded = torch.full((len(rows), width), self._backbone.pad_token_id)
        mask = torch.zeros_like(padded)
        for j, row in enumerate(rows):
            padded[j, width - len(row) :] = row
            mask[j, width - len(row) :] = 1
        rowed = [self._visual(job.sample) for job in jobs]
        plans = [
            plan
            for job, images in zip(jobs, rowed, strict=True)
            for plan in parted(job.plan, [len(image.tokens) for image in images])
        ]
        visual = [image for images in rowed for image in images]
        features = [
            image.tokens[plan.kept] if plan.features is None else plan.features
            for image, plan in zip(visual, plans, strict=True)
        ]
        return self._backbone.prepare(
            {"input_ids": padded.to(device), "attention_mask": mask.to(device)},
            visual,
            [plan.kept for plan in plans],
            positions=plans[0].positions,
            padding_side="left",
            features=[rows.to(device) for rows in features],
        )


def _inside(
    jobs: Sequence[Job], prepared: Prepared, pruner: LayerPruner | None
) -> AbstractContextManager[Any]:
    """Prune inside the LLM, by the plans of a batch, what is run within."""
    rules = [job.plan.rule for job in jobs]
    if pruner is None or rules[0] is None:
        return nullcontext()
    return pruner.prefill(rules, jobs[0].plan.positions, prepared.newlines)


def _following(prepared: Prepared, count: int) -> Tensor:
    """Return the position ids of the tokens behind a prompt, in the shape of the prompt's own."""
    places: Tensor = prepared.kwargs["position_ids"]
    after = prepared.next_positions[:, None] + torch.arange(count)
    if places.ndim == 3:  # M-RoPE: the text's own count, then time, height and width
        text = torch.tensor(prepared.lengths)[:, None] + torch.arange(count)
        after = torch.stack([text, *[after] * (len(places) - 1)])
    return after.to(places.device)


def in_threads(
    function: Callable[[_In], _Out], items: Sequence[_In], workers: int
) -> Iterator[_Out]:
    """Map in order, on several threads where that is asked for (torch releases the lock)."""
    if workers == 1 or len(items) < 2:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)
