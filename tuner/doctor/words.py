"""What a model showed, judged and said: a line each."""

from __future__ import annotations

from collections.abc import Iterator

from resprune.certificate import Certificate
from resprune.config import PruningConfig
from resprune.plan import needs_of
from resprune.setting import Adaptive, fixed
from tuner.doctor.schema import Activity, Finding, ImageTokens, Level, Speed
from tuner.output.certified import claim_text
from tuner.output.efficiency import pays_text, speed_text
from tuner.output.wording import Scale, policy_text
from tuner.results.efficiency import Spread

_SDPA = ("sdpa", "eager")


def say_activity(found: Activity, config: PruningConfig) -> Iterator[Finding]:
    """Say what a model showed.

    Args:
        found: What it showed.
        config: The config that was used.
    """
    yield _finding(
        "model", "ok", f"{found.model}: {found.model_class}, {found.dtype} on {found.device}"
    )
    yield _finding("backbone", "ok", found.family)
    yield _attention(found)
    for text in found.warnings:
        yield _finding("warning", "note", text)
    yield _policy(found, config)
    yield _pruning(found)
    for number, image in enumerate(found.images):
        yield _image(image, number, len(found.images))
    if found.active:
        yield _positions(found)
        yield _nouns(found)
        yield _answers(found)
    yield _finding("certificate", "ok", found.certificate)
    if isinstance(found.speed, str):
        yield _finding("speed", "note", f"not measured: {found.speed}")
    elif found.speed is not None:
        yield from _speed(found.speed)


def certificate_text(config: PruningConfig) -> str:
    """Say what a config certifies of its default policy."""
    budget, certificate = config.policy().budget, config.certificate
    if certificate is None:
        return f"nothing is certified at budget {budget}: resprune-tune certify tests a claim"
    tested = [one for one in certificate.order if one.budget == budget]
    if not tested:
        passed = ", ".join(str(one.budget) for one in certificate.certified) or "none"
        asked = ", ".join(str(one.budget) for one in certificate.order)
        return (
            f"nothing is certified at budget {budget}, and of those that were to be tested "
            f"({asked}) {passed}"
        )
    claim = _claim(certificate)
    if tested[0].certified:
        return f"certified at budget {budget}: {claim}"
    return f"NOT certified at budget {budget}; it was not shown that {claim}"


def _claim(certificate: Certificate) -> str:
    claim, split = certificate.claim, certificate.split
    return (
        f"{claim_text(claim, Scale.of_metric(certificate.metric))}, with "
        f"{100 * claim.confidence:g} % confidence on {split.images:,} images ({certificate.test})"
    )


def _policy(found: Activity, config: PruningConfig) -> Finding:
    text = f"budget {found.policy.budget}: {policy_text(found.policy)}"
    if isinstance(found.policy, Adaptive):
        text += " (by prompt)"
    if config.untested:
        return _finding("policy", "note", f"{text}; neither the paper nor a study has tested it")
    return _finding("policy", "ok", text)


def _pruning(found: Activity) -> Finding:
    if not found.active:
        text = f"NOT active: {found.why} ({found.rows} of {found.rows_whole} rows entered the LLM)"
        return _finding("pruning", "problem", text)
    text = (
        f"ACTIVE: {found.rows} rows entered the LLM, {found.rows_whole} without pruning; "
        f"{found.kept} of {found.visual_tokens} visual tokens kept"
    )
    if min(found.rows_by_layer) < found.rows:
        text += f"; its layers cached {', '.join(map(str, found.rows_by_layer))}"
    if found.logit_change == 0:
        text += "; yet not one logit changed, which cannot be"
        return _finding("pruning", "problem", text)
    return _finding("pruning", "ok", f"{text}; logits moved by up to {found.logit_change:.2g}")


def _image(image: ImageTokens, number: int, count: int) -> Finding:
    words = [f"{image.visual_tokens} visual tokens, {image.kept} kept"]
    if image.left != image.kept:
        words.append(f"{image.left} left in the last layer")
    if image.patches is not None:
        words.append(
            f"{image.patches} patches before the merger, which makes one token of "
            f"{image.patches // image.visual_tokens}"
        )
    if len(image.tiles) > 1:
        tiles = (f"{t.kept} of {t.visual_tokens}" for t in image.tiles)
        words.append(f"by tile {', '.join(tiles)} (tile {image.tiles[0].tile} first)")
    if image.newlines:
        stay = "all stay" if image.kept == image.visual_tokens else "none stays"
        words.append(f"{image.newlines} newline tokens beside them, of which {stay}")
    name = "image" if count == 1 else f"image {number}"
    return _finding(name, "ok", "; ".join(words))


def _positions(found: Activity) -> Finding:
    if found.policy.positions == "keep":
        text = "keep: tokens stay where they were"
    else:
        text = "compact: positions are counted anew without gaps"
    if found.next_position is not None:
        text += f"; the answer starts at position {found.next_position}"
    return _finding("positions", "ok", text)


def _nouns(found: Activity) -> Finding:
    if "nouns" not in needs_of(found.policy):
        return _finding("nouns", "ok", "the policy reads none")
    if not found.nouns:
        text = f"none in {found.question!r}, so every visual token is equally relevant"
        return _finding("nouns", "note", text)
    return _finding("nouns", "ok", f"{', '.join(found.nouns)} in {found.question!r}")


def _answers(found: Activity) -> Finding:
    if found.pruned == found.unpruned:
        return _finding("answers", "ok", f"the same with and without: {found.pruned!r}")
    text = f"{found.pruned!r}, and {found.unpruned!r} without pruning: one prompt is no score"
    return _finding("answers", "note", text)


def _attention(found: Activity) -> Finding:
    name = found.attention
    if name in _SDPA:
        slow = "; sdpa is faster" if name == "eager" else ""
        return _finding("attention", "ok", f"{name}{slow}")
    inside = fixed(found.policy).inside is not None
    if inside and "flex" in name:
        text = f"{name} with a method inside the LLM is refused; load the model with sdpa"
        return _finding("attention", "problem", text)
    return _finding("attention", "note", f"{name}: not among those tested ({', '.join(_SDPA)})")


def _speed(speed: Speed) -> Iterator[Finding]:
    found, row = speed.measured, speed.measured.rows[-1]
    slow = row.first_token is not None and row.first_token.low <= 1
    yield _finding(
        "speed",
        "note" if slow else "ok",
        f"first token {speed_text(row.first_token)}, whole call of {found.new_tokens} new tokens "
        f"{speed_text(row.whole_call)}; {found.repeats} rounds, {found.device}",
    )
    yield _finding(
        "expected",
        "ok",
        f"first token {speed.expected:.2f} times faster: the prefill has "
        f"{100 * speed.flops_share:.0f} % of its arithmetic left "
        f"({speed.expected_prefill:.1f} times less); of the unpruned first token it is "
        f"{100 * speed.prefill_share:.0f} %, and the vision tower, which pruning leaves as it is, "
        f"{100 * speed.vision_share:.0f} %",
    )
    if speed.reasons:
        saved = _ms(found.whole.prefill_ms) * (1 - speed.flops_share)
        text = f"of the {saved:.1f} ms that could be saved: {'; '.join(speed.reasons)}"
        if slow:
            text += f". {pays_text(found, row)}"
        yield _finding("less because", "note", text)


def _ms(value: Spread | None) -> float:
    return 0.0 if value is None else value.median


def _finding(name: str, level: Level, text: str) -> Finding:
    return Finding(area="pruning", name=name, level=level, text=text)
