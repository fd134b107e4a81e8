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
from resprune.plan import Plan, made_by
from tuner.scoring.metrics import Kind
from tuner.scoring.outcomes import Outcome
from tuner.scoring.prompts import Prompts

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
        visual: Returns the encoded image of a sample.
        prompts: Its prompts.
        max_new_tokens: Tokens an answer needs at most.
        batch_size: Rows of one prefill.
        workers: Batches that run at once.
    """

    def __init__(
        self,
        backbone: Backbone,
        visual: Callable[[int], VisualTokens],
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
        batches = self._batches(jobs, kind)
        ruled = any(job.plan.rule is not None for job in jobs)
        with LayerPruner(self._backbone) if ruled else nullcontext() as pruner:
            outcomes = in_threads(
                lambda b: step([jobs[i] for i in b], pruner), batches, self._workers
            )
            yield from zip(batches, outcomes, strict=True)

    def _batches(self, jobs: Sequence[Job], kind: Kind) -> list[list[int]]:
        """Cut jobs into batches of equal or, where T varies, near count that enters, and length.

        One batch has one way to prune inside the LLM.
        """
        ids = self._prompts.ids if kind == "answer" else self._prompts.gold

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
            text = length - len(self._visual(first.sample).tokens)
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

    @torch.inference_mode()
    def _likelihood(self, jobs: list[Job], pruner: LayerPruner | None) -> list[Outcome]:
        """Sum the log-probabilities of the gold answer's tokens, given the prompt and each other.

        Source: teacher forcing, as lm-evaluation-harness does for ``loglikelihood``.
        """
        if jobs[0].plan.rule is not None:
            return self._likelihood_after_prompt(jobs, pruner)
        counts = [len(self._prompts.answer(job.sample)) for job in jobs]
        kwargs = self._prepared(self._prompts.gold, jobs).kwargs
        most = max(counts)
        logits = self._backbone.model(**kwargs, logits_to_keep=most + 1, use_cache=False).logits
        chances = logits[:, :-1].float().log_softmax(dim=-1)
        gold = kwargs["input_ids"][:, -most:]
        taken = chances.gather(2, gold[..., None])[..., 0].cpu()
        return [
            Outcome(None, float(taken[j, most - n :].double().sum())) for j, n in enumerate(counts)
        ]

    def _likelihood_after_prompt(
        self, jobs: list[Job], pruner: LayerPruner | None
    ) -> list[Outcome]:
        """Sum the same, the prompt alone going first.

        In one pass with the answer a method inside the LLM would choose by the answer's tokens.
        """
        prepared = self._prepared(self._prompts.ids, jobs)
        given = prepared.kwargs
        device = given["input_ids"].device
        gold = pad_sequence([self._prompts.answer(job.sample) for job in jobs], batch_first=True)
        gold = gold.to(device)
        counts = torch.tensor([len(self._prompts.answer(job.sample)) for job in jobs])
        there = (torch.arange(gold.shape[1]) < counts[:, None]).to(device)
        model = self._backbone.model
        with _inside(jobs, prepared, pruner):
            first = model(**given, logits_to_keep=1, use_cache=True)
            logits = first.logits[:, -1:]
            if gold.shape[1] > 1:
                seen = there[:, :-1].to(given["attention_mask"].dtype)
                rest = model(
                    input_ids=gold[:, :-1],
                    attention_mask=torch.cat([given["attention_mask"], seen], dim=1),
                    position_ids=_following(prepared, gold.shape[1] - 1),
                    past_key_values=first.past_key_values,
                    use_cache=True,
                )
                logits = torch.cat([logits, rest.logits], dim=1)
        taken = logits.float().log_softmax(dim=-1).gather(2, gold[..., None])[..., 0]
        sums = (taken.double() * there).sum(dim=1).tolist()
        return [Outcome(None, value) for value in sums]

    def _prepared(self, ids: Sequence[Tensor], jobs: list[Job]) -> Prepared:
        device = self._backbone.model.device
        rows = [ids[job.sample] for job in jobs]
        width = max(len(row) for row in rows)
        padded = torch.full((len(rows), width), self._backbone.pad_token_id)
        mask = torch.zeros_like(padded)
        for j, row in enumerate(rows):
            padded[j, width - len(row) :] = row
            mask[j, width - len(row) :] = 1
        visual = [self._visual(job.sample) for job in jobs]
        plans = [job.plan for job in jobs]
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


_In = TypeVar("_In")
_Out = TypeVar("_Out")


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
