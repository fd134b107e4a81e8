"""The engine: settings -> orders -> kept sets -> outcomes, each computed once.

Images are encoded once (``VisualCache``), greedy orders are nested, so one serves every smaller
budget, and outcomes are remembered by sample and kept set (``Memo``), so settings that keep the
same tokens share one prefill. Batches run through ``backbone.prepare`` and ``model.generate``, the
path that ``attach`` takes.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from resprune import greedy_order_batch
from resprune.alpha import prompt_features
from resprune.backbones import VisualTokens
from resprune.errors import StudyError
from resprune.relevance import relevance_weights
from resprune.seeds import seed_index
from resprune.selection import Prompt, PromptReader, relevance_of, resolve_budget
from resprune.subspace import gram_matrix
from tuner.cache import Memo, Outcome, VisualCache, image_key, processed
from tuner.tasks import Sample, Task, normalized

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_IMAGES_AT_ONCE = 8  # whose Gram matrices and expansions are worked on together
_TOKENS_PER_ROW = 80  # longer rows go in smaller batches
_PADDING = 0.1  # share by which the kept counts of a batch may differ where T varies


@dataclass(frozen=True)
class Setting:
    """One point of the search space, the budget apart.

    Attributes:
        alpha: Exponent of the relevance.
        seed_strategy: How the first token is chosen.
        pooling: How relevance pools over nouns.
        normalization: How relevance is normalised.
        positions: Position policy.
    """

    alpha: float
    seed_strategy: str
    pooling: str = "max"
    normalization: str = "minmax"
    positions: str = "keep"

    def at(self, alpha: float) -> Setting:
        """Return the same setting with another alpha."""
        return replace(self, alpha=alpha)


@dataclass(frozen=True)
class Kept:
    """One kept set a sample.

    Attributes:
        indices: Sorted indices, shape (N, k); -1 at the end where an image has fewer tokens.
        positions: Position policy.
    """

    indices: Ints
    positions: str = "keep"


class _Job(NamedTuple):
    """One outcome to compute: a sample, its sorted kept indices, a position policy."""

    sample: int
    kept: Ints
    positions: str


class Engine:
    """Scores settings on the samples of one split.

    Args:
        task: Scores answers.
        samples: N samples.
        visual: Encoder outputs; missing ones are computed.
        memo: Outcomes of earlier runs.
        reader: Reads questions into nouns.
        metric: ``score``, ``log_likelihood`` or ``fidelity``.
        batch_size: Rows of one prefill.
        workers: Batches that run at once.
        eps: Floor of the relevance.
        ratios: Ratio that a budget stands for where T varies: of such a budget ``k``, each image
            keeps this share of its own T, whatever the number ``k``.
        progress: Called with the outcomes done and in all.

    Raises:
        StudyError: ``log_likelihood`` on samples without a gold answer.
    """

    def __init__(
        self,
        task: Task,
        samples: Sequence[Sample],
        visual: VisualCache,
        memo: Memo,
        reader: PromptReader,
        *,
        metric: str = "score",
        batch_size: int = 32,
        workers: int = 1,
        eps: float = 0.01,
        ratios: Mapping[int, float] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.task = task
        self.samples = list(samples)
        self.backbone = reader.backbone
        self.metric = metric
        self.prefills = 0
        """Rows that went through the LLM."""
        self._visual = visual
        self._memo = memo
        self._reader = reader
        self._batch_size = batch_size
        self._workers = workers
        self._eps = eps
        self._ratios = dict(ratios or {})
        self._progress = progress
        self._relevance: dict[tuple[str, str], Tensor] = {}
        self._first: dict[tuple[str, str, str], Tensor | None] = {}
        self._texts: dict[tuple[int, ...], str] = {}
        self._full_answers: list[str] | None = None
        if metric == "log_likelihood" and any(not sample.answers for sample in self.samples):
            raise StudyError("task.metric: log_likelihood needs a gold answer for every sample")
        visual.load(self.samples, progress)
        self._ids = self._prompt_ids([sample.prompt for sample in self.samples])
        self._gold = [
            torch.cat([ids, self._answer_ids(sample)])
            for ids, sample in zip(self._ids, self.samples, strict=True)
        ]
        self._digests = [self._digest(i) for i in range(len(self.samples))]
        self._lengths = np.array([len(self.visual(i).tokens) for i in range(len(self.samples))])

    def __len__(self) -> int:
        return len(self.samples)

    # -- what the samples are -----------------------------------------------------------

    @property
    def groups(self) -> list[str]:
        """Question type of each sample."""
        return [sample.group for sample in self.samples]

    @property
    def images(self) -> list[str]:
        """Image of each sample: the clusters of every interval."""
        return [sample.image_id for sample in self.samples]

    def visual(self, i: int) -> VisualTokens:
        """Return the encoded image of a sample."""
        return self._visual[image_key(self.samples[i])]

    def prompt(self, i: int) -> Prompt:
        """Return the question of a sample, read into nouns."""
        return self._reader.read(self.samples[i].question)

    def features(self) -> Floats:
        """Return the prompt-specificity features, shape (N, F)."""
        rows = []
        for i in range(len(self)):
            prompt = self.prompt(i)
            _, cosines = relevance_of(self.visual(i), prompt)
            rows.append(prompt_features(prompt.context(cosines)))
        return np.stack(rows)

    # -- settings -> kept sets ----------------------------------------------------------

    def counts(self, k: int) -> Ints:
        """Return how many tokens of each sample's image a budget keeps, shape (N,)."""
        budget = self._ratios.get(k, k)
        found: Ints = np.array([resolve_budget(budget, int(t)) for t in self._lengths])
        return found

    def keep(self, order: Ints, k: int, positions: str = "keep") -> Kept:
        """Return the kept sets that a budget cuts off orders, shape (N, k or more)."""
        return kept_of(order, self.counts(k), positions)

    def orders(self, setting: Setting, alphas: Sequence[float], *budgets: int) -> Ints:
        """Order the tokens of every sample's image under several alphas.

        Args:
            setting: Seed strategy and relevance options; its alpha is not read.
            alphas: A alphas.
            *budgets: Budgets wanted.

        Returns:
            Pick orders, shape (A, N, k), k being the largest count wanted; -1 past the end of
            shorter images. The first columns are the order of a smaller budget.
        """
        exponents = torch.tensor(alphas, dtype=torch.float32)
        relevance = self._relevance_maps(setting.pooling, setting.normalization)
        first = self._first_tokens(setting)
        wanted = np.stack([self.counts(k) for k in budgets]).max(axis=0)
        out = np.full((len(alphas), len(self), wanted.max()), -1, dtype=np.int64)

        def expand(members: list[list[int]]) -> tuple[list[list[int]], Tensor]:
            tokens, lengths = _padded([self.visual(rows[0]).tokens for rows in members])
            most = max(len(rows) for rows in members)
            # Images with fewer questions repeat their last one; the copies are not read.
            table = torch.tensor([rows + rows[-1:] * (most - len(rows)) for rows in members])
            weights = relevance_weights(relevance[table][..., : tokens.shape[1]], exponents)
            seeds = None
            if first is not None:
                seeds = first[table].repeat_interleave(len(alphas), dim=1)
            found = greedy_order_batch(
                tokens,
                weights.flatten(1, 2),
                max(int(wanted[rows].max()) for rows in members),
                seeds,
                gram=gram_matrix(tokens),
                lengths=lengths,
            )
            return members, found.reshape(len(members), most, len(alphas), -1)

        for members, found in _map(expand, list(self._image_chunks()), self._workers):
            for image, rows in enumerate(members):
                out[:, rows, : found.shape[-1]] = found[image, : len(rows)].transpose(0, 1).numpy()
        return out

    def kept(self, setting: Setting, k: int) -> Kept:
        """Return what a setting keeps at a budget of ``k`` tokens."""
        return self.keep(self.orders(setting, [setting.alpha], k)[0], k, setting.positions)

    def grid(self, setting: Setting, alphas: Sequence[float], budgets: Sequence[int]) -> Floats:
        """Score an alpha grid.

        Args:
            setting: Seed strategy and options; its alpha is not read.
            alphas: A alphas.
            budgets: B budgets.

        Returns:
            Scores, shape (B, A, N).
        """
        kept = self.grid_kept(setting, alphas, budgets)
        scores: Floats = self.outcomes(kept).reshape(len(budgets), len(alphas), len(self))
        return scores

    def grid_kept(
        self, setting: Setting, alphas: Sequence[float], budgets: Sequence[int]
    ) -> list[Kept]:
        """Return what each alpha keeps at each budget: B times A kept sets a sample."""
        orders = self.orders(setting, alphas, *budgets)
        return [self.keep(order, k, setting.positions) for k in budgets for order in orders]

    def score(self, setting: Setting, k: int) -> Floats:
        """Score one setting at a budget of ``k`` tokens, shape (N,)."""
        scores: Floats = self.outcomes([self.kept(setting, k)])[0]
        return scores

    def everything(self) -> Kept:
        """Return the kept sets of the unpruned model."""
        index = np.arange(self._lengths.max())[None, :].repeat(len(self), axis=0)
        return Kept(np.where(index < self._lengths[:, None], index, -1))

    def random(self, k: int, seed: int) -> Kept:
        """Return random kept sets, a draw of its own for each sample and seed."""
        rows = []
        for i, sample in enumerate(self.samples):
            text = f"{seed} {sample.id}"
            digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
            generator = np.random.default_rng(int.from_bytes(digest, "big"))
            rows.append(generator.permutation(int(self._lengths[i])))
        return self.keep(_ragged(rows), k)

    def most_relevant(self, setting: Setting, k: int) -> Kept:
        """Return the ``k`` tokens of highest relevance, ties to the lowest index."""
        relevance = self._relevance_maps(setting.pooling, setting.normalization)
        best = relevance.argsort(dim=1, descending=True, stable=True).numpy()
        inside = np.where(best < self._lengths[:, None], best, -1)
        return self.keep(inside, k, setting.positions)

    # -- kept sets -> outcomes ----------------------------------------------------------

    def outcomes(self, requests: Sequence[Kept]) -> Floats:
        """Score kept sets under the study's metric.

        Args:
            requests: R times one kept set a sample.

        Returns:
            Scores, shape (R, N): the task's, 0/1 agreement with the unpruned answer, or the gold
            answer's log-likelihood in nats.
        """
        if self.metric == "log_likelihood":
            return self.likelihoods(requests)
        answers = self.predictions(requests)
        if self.metric == "score":
            rows = [
                [self.task.score(a, s) for a, s in zip(row, self.samples, strict=True)]
                for row in answers
            ]
        else:
            full = [normalized(answer) for answer in self.unpruned_answers()]
            rows = [
                [float(normalized(a) == b) for a, b in zip(row, full, strict=True)]
                for row in answers
            ]
        return np.array(rows, dtype=np.float64).reshape(len(requests), len(self))

    def predictions(self, requests: Sequence[Kept]) -> list[list[str]]:
        """Answer every sample under each kept set, greedily decoded; R lists of N texts."""
        values = [str(outcome.answer) for outcome in self._values(requests, "answer")]
        n = len(self)
        return [values[i * n : (i + 1) * n] for i in range(len(requests))]

    def likelihoods(self, requests: Sequence[Kept]) -> Floats:
        """Return log-likelihoods of the gold answers in nats, shape (R, N).

        Under the metric ``log_likelihood`` of the whole answer; else of its first token, which
        greedy decoding gives at no cost.

        Raises:
            StudyError: A sample has no gold answer.
        """
        if any(not sample.answers for sample in self.samples):
            raise StudyError("a log-likelihood needs a gold answer for every sample")
        kind = "likelihood" if self.metric == "log_likelihood" else "answer"
        values = [outcome.likelihood for outcome in self._values(requests, kind)]
        return np.array(values, dtype=np.float64).reshape(len(requests), len(self))

    def unpruned(self) -> Floats:
        """Score the unpruned model, shape (N,)."""
        scores: Floats = self.outcomes([self.everything()])[0]
        return scores

    def unpruned_answers(self) -> list[str]:
        """Return the unpruned model's answers."""
        if self._full_answers is None:
            self._full_answers = self.predictions([self.everything()])[0]
        return self._full_answers

    def _values(self, requests: Sequence[Kept], kind: str) -> list[Outcome]:
        keys: list[bytes] = []
        jobs: dict[bytes, _Job] = {}
        for request in requests:
            for i, row in enumerate(request.indices):
                kept = row[row >= 0] if row.size and row[-1] < 0 else row
                key = self._key(i, kept, request.positions, kind)
                keys.append(key)
                if key in jobs or self._memo.get(key) is not None:
                    self._memo.hits += 1
                else:
                    jobs[key] = _Job(i, kept, request.positions)
        self._run(jobs, kind)
        return [self._memo[key] for key in keys]

    def _run(self, jobs: dict[bytes, _Job], kind: str) -> None:
        """Compute missing outcomes and remember them, batch by batch."""
        step = self._answer if kind == "answer" else self._likelihood

        def compute(batch: list[bytes]) -> dict[bytes, Outcome]:
            return dict(zip(batch, step([jobs[key] for key in batch]), strict=True))

        done = 0
        for outcomes in _map(compute, self._batches(jobs, kind), self._workers):
            self._memo.put(outcomes)
            self.prefills += len(outcomes)
            done += len(outcomes)
            if self._progress is not None:
                self._progress(done, len(jobs))

    def _batches(self, jobs: dict[bytes, _Job], kind: str) -> list[list[bytes]]:
        """Cut jobs into batches of equal or, where T varies, near kept count and length."""
        ids = self._ids if kind == "answer" else self._gold

        def shape(key: bytes) -> tuple[str, int, int]:
            job = jobs[key]
            return job.positions, len(job.kept), len(ids[job.sample])

        waiting = sorted(jobs, key=shape)
        batches = []
        start = 0
        while start < len(waiting):
            positions, k, length = shape(waiting[start])
            text = length - len(self.visual(jobs[waiting[start]].sample).tokens)
            rows = max(1, self._batch_size * _TOKENS_PER_ROW // max(_TOKENS_PER_ROW, k + text))
            head = waiting[start : start + rows]
            most = k * (1 + _PADDING) if self.backbone.visual_tokens is None else k
            batch = [key for key in head if shape(key)[0] == positions and shape(key)[1] <= most]
            batches.append(batch)
            start += len(batch)
        return batches

    @torch.inference_mode()
    def _answer(self, jobs: list[_Job]) -> list[Outcome]:
        kwargs = self._prepared(self._ids, jobs)
        output = self.backbone.model.generate(
            **kwargs,
            max_new_tokens=self.task.max_new_tokens,
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
            gold = self._gold[job.sample][len(self._ids[job.sample]) :][:1].tolist()
            likelihood = float(chances[j, gold[0]]) if gold else None
            found.append(Outcome(self._text(tuple(answer)), likelihood))
        return found

    def _text(self, tokens: tuple[int, ...]) -> str:
        if tokens not in self._texts:
            decoded = self.backbone.processor.tokenizer.decode(tokens, skip_special_tokens=True)
            self._texts[tokens] = str(decoded).strip()
        return self._texts[tokens]

    @torch.inference_mode()
    def _likelihood(self, jobs: list[_Job]) -> list[Outcome]:
        """Sum the log-probabilities of the gold answer's tokens, given the prompt and each other.

        Source: teacher forcing, as lm-evaluation-harness does for ``loglikelihood``.
        """
        counts = [len(self._gold[job.sample]) - len(self._ids[job.sample]) for job in jobs]
        kwargs = self._prepared(self._gold, jobs)
        most = max(counts)
        logits = self.backbone.model(**kwargs, logits_to_keep=most + 1, use_cache=False).logits
        chances = logits[:, :-1].float().log_softmax(dim=-1)
        gold = kwargs["input_ids"][:, -most:]
        taken = chances.gather(2, gold[..., None])[..., 0].cpu()
        return [
            Outcome(None, float(taken[j, most - n :].double().sum())) for j, n in enumerate(counts)
        ]

    def _prepared(self, ids: Sequence[Tensor], jobs: list[_Job]) -> dict[str, Any]:
        model = self.backbone.model
        rows = [ids[job.sample] for job in jobs]
        width = max(len(row) for row in rows)
        padded = torch.full((len(rows), width), self.backbone.pad_token_id)
        mask = torch.zeros_like(padded)
        for j, row in enumerate(rows):
            padded[j, width - len(row) :] = row
            mask[j, width - len(row) :] = 1
        visual = [self.visual(job.sample) for job in jobs]
        indices = [torch.from_numpy(job.kept) for job in jobs]
        return self.backbone.prepare(
            {"input_ids": padded.to(model.device), "attention_mask": mask.to(model.device)},
            visual,
            indices,
            positions=jobs[0].positions,
            padding_side="left",
            features=[
                image.tokens[k].to(model.device) for image, k in zip(visual, indices, strict=True)
            ],
        ).kwargs

    # -- prompts ------------------------------------------------------------------------

    def _prompt_ids(self, texts: Sequence[str]) -> list[Tensor]:
        found: list[Tensor] = []
        step = 64
        for start in range(0, len(texts), step):
            prompts = [self.backbone.chat_prompt(text) for text in texts[start : start + step]]
            images = [sample.load_image() for sample in self.samples[start : start + step]]
            batch = processed(self.backbone, images, prompts)
            for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
                found.append(row[mask.bool()].cpu())
        return found

    def _answer_ids(self, sample: Sample) -> Tensor:
        """Tokenise the gold answer as the chat template would write it after the prompt."""
        if not sample.answers:
            return torch.empty(0, dtype=torch.long)
        answer = sample.answers[0]
        prompt = self.backbone.chat_prompt(sample.prompt)
        question = [{"type": "image"}, {"type": "text", "text": sample.prompt}]
        turns = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
        rest = str(self.backbone.processor.apply_chat_template(turns)).removeprefix(prompt)
        # Up to two characters (a space, a line break) may stand before it; a template that writes
        # the assistant's turn in another way gets the bare answer.
        end = rest.find(answer)
        text = rest[: end + len(answer)] if 0 <= end <= 2 else answer
        tokenizer = self.backbone.processor.tokenizer
        before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        after = tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
        return torch.tensor(after[len(before) :], dtype=torch.long)

    def _digest(self, i: int) -> bytes:
        sample = self.samples[i]
        parts = [image_key(sample), sample.prompt, self.task.max_new_tokens, sample.answers[:1]]
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()

    def _key(self, i: int, kept: Ints, positions: str, kind: str) -> bytes:
        digest = hashlib.blake2b(self._digests[i], digest_size=12)
        digest.update(f"{kind} {positions} ".encode())
        digest.update(kept.astype(np.int32).tobytes())
        return digest.digest()

    # -- relevance and seeds ------------------------------------------------------------

    def _relevance_maps(self, pooling: str, normalization: str) -> Tensor:
        """Relevance of every sample, shape (N, max T), zero past an image's end."""
        name = (pooling, normalization)
        if name not in self._relevance:
            maps = [
                relevance_of(self.visual(i), self.prompt(i), pooling, normalization, self._eps)[0]
                for i in range(len(self))
            ]
            self._relevance[name] = torch.nn.utils.rnn.pad_sequence(maps, batch_first=True)
        return self._relevance[name]

    def _first_tokens(self, setting: Setting) -> Tensor | None:
        """Seed of every sample, shape (N,), or None where the first score decides."""
        name = (setting.seed_strategy, setting.pooling, setting.normalization)
        if name not in self._first:
            relevance = self._relevance_maps(setting.pooling, setting.normalization)
            found = []
            for i in range(len(self)):
                visual = self.visual(i)
                seed = seed_index(
                    setting.seed_strategy,
                    tokens=visual.tokens,
                    relevance=relevance[i, : len(visual.tokens)],
                    signals=visual.signals,
                )
                if seed is not None:
                    found.append(seed)
            self._first[name] = torch.stack(found) if found else None
        return self._first[name]

    def _image_chunks(self) -> Iterator[list[list[int]]]:
        """Yield sample rows by image, several images at a time."""
        rows: dict[str, list[int]] = defaultdict(list)
        for i, sample in enumerate(self.samples):
            rows[image_key(sample)].append(i)
        images = list(rows.values())
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            yield images[start : start + _IMAGES_AT_ONCE]


_In = TypeVar("_In")
_Out = TypeVar("_Out")


def _map(function: Callable[[_In], _Out], items: Sequence[_In], workers: int) -> Iterator[_Out]:
    """Map in order, on several threads where that is asked for (torch releases the lock)."""
    if workers == 1 or len(items) < 2:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)


def kept_of(order: Ints, k: int | Ints, positions: str = "keep") -> Kept:
    """Sort the first ``k`` picks of each sample; what is past an image's end goes last.

    Args:
        order: Pick orders, shape (N, K).
        k: A count, or one a sample, shape (N,).
        positions: Position policy.

    Returns:
        The kept sets.
    """
    counts = np.broadcast_to(k, len(order))
    head = order[:, : counts.max()]
    head = np.where(np.arange(head.shape[1]) < counts[:, None], head, -1)
    high = np.iinfo(np.int64).max
    ranked = np.sort(np.where(head < 0, high, head), axis=1)
    return Kept(np.where(ranked == high, -1, ranked), positions)


def _ragged(rows: Sequence[Ints]) -> Ints:
    out = np.full((len(rows), max(len(row) for row in rows)), -1, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def _padded(tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    lengths = [len(rows) for rows in tokens]
    if len(set(lengths)) == 1:
        return torch.stack(list(tokens)), None
    return torch.nn.utils.rnn.pad_sequence(list(tokens), batch_first=True), torch.tensor(lengths)
