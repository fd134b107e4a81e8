"""The certificate in words: what is promised, on what evidence, and what was not reached."""

from __future__ import annotations

from resprune.certificate import Certificate, Claim, Tested
from tuner.certificate import Bounds, images_to_bet, images_to_pass
from tuner.output.wording import Scale
from tuner.results.schema import Results


def claim_text(claim: Claim, scale: Scale) -> str:
    """Say a claim: ``the mean score falls by less than 2.0 points against all tokens``."""
    return f"the mean score falls by less than {loss_text(claim, scale)} against all tokens"


def loss_text(claim: Claim, scale: Scale) -> str:
    """Say a claim's loss: ``2.0 points``, or ``2 % of the score with all tokens``."""
    if claim.scale == "relative":
        return f"{100 * claim.loss:g} % of the score with all tokens"
    return f"{scale.number(claim.loss)} {'points' if scale.unit else 'nats'}"


def promise(results: Results, scale: Scale) -> str:
    """Say in one sentence what stands behind the recommended policy."""
    certificate = results.certificate
    if certificate is None:
        return "Nothing is certified: the study claims nothing, or has no certify split."
    claim, split = certificate.claim, certificate.split
    recommended = [t for t in certificate.order if t.budget == results.recommended]
    if not recommended:
        return (
            f"No budget could be certified: that {claim_text(claim, scale)} was not shown with "
            f"{100 * claim.confidence:g} % confidence on {split.images:,} images."
        )
    tested = recommended[0]
    if tested.certified:
        return (
            f"Certified with {100 * claim.confidence:g} % confidence: {claim_text(claim, scale)}. "
            f"{evidence(tested, certificate, scale)}"
        )
    if tested.p_value is None:
        why = "testing stopped at an earlier failure in the order"
    else:
        why = evidence(tested, certificate, scale).rstrip(".")
        why = why[0].lower() + why[1:]
    return f"Not certified: that {claim_text(claim, scale)} was not shown; {why}."


def evidence(tested: Tested, certificate: Certificate, scale: Scale) -> str:
    """Say what a policy gave on the certify split."""
    assert tested.p_value is not None
    assert tested.loss is not None
    split = certificate.split
    lost = loss_measured(tested.loss, certificate.claim, scale)
    flips = ""
    if tested.worse is not None and tested.better is not None:
        flips = (
            f": {tested.worse:,} right answers turned wrong and {tested.better:,} wrong ones right"
        )
    approximate = ", approximate" if certificate.test == "t" else ""
    return (
        f"On {split.images:,} images that no choice had seen it {lost}{flips} "
        f"({certificate.test} test{approximate}, p = {p_text(tested.p_value)})."
    )


def loss_measured(loss: float, claim: Claim, scale: Scale) -> str:
    """Say a measured loss: ``lost 0.5 points``, ``gained 0.2 points``."""
    if claim.scale == "relative":
        size, unit = f"{100 * abs(loss):.1f}", " % of the score"
    else:
        size = scale.number(abs(loss))
        unit = " points" if scale.unit else " nats"
    return f"{'lost' if loss >= 0 else 'gained'} {size}{unit}"


def p_text(p_value: float) -> str:
    """Write a p-value: ``0.032``, or ``< 0.0001``."""
    return "< 0.0001" if p_value < 1e-4 else f"{p_value:.2g}"


def nearest(results: Results, scale: Scale) -> str:
    """Say where testing stopped, how near it came and what would have been needed; may be empty."""
    certificate = results.certificate
    if certificate is None:
        return ""
    failed = [t for t in certificate.order if t.p_value is not None and not t.certified]
    if not failed:
        return "" if len(certificate.order) == 1 else "Every budget of the study was certified."
    first = failed[0]
    text = f"Testing stopped at {first.tokens} tokens. {evidence(first, certificate, scale)} "
    assert first.loss is not None
    if first.loss >= certificate.claim.loss:
        return text + "That is no less than the claim, and more images alone would not change it."
    wanted = _images_wanted(first, certificate)
    if wanted is None:
        return text.rstrip()
    more = wanted - certificate.split.images
    return text + f"If these rates hold, about {more:,} more images would have been needed."


def _images_wanted(tested: Tested, certificate: Certificate) -> int | None:
    """Return the images at which the test would have passed; None where that is not known."""
    claim, split = certificate.claim, certificate.split
    if certificate.test == "betting":
        bounds = Bounds.of(claim, split.questions_per_image, certificate.clip)
        return images_to_bet(tested.margins, bounds.above, claim.confidence)
    if certificate.test == "t" or tested.worse is None or tested.better is None:
        return None
    return images_to_pass(tested.worse, tested.better, split.images, claim.loss, claim.confidence)


def attempt_text(certificate: Certificate) -> str:
    """Say which opening of a certify split it was."""
    return f"attempt {certificate.attempt} of this study"


def verdict(tested: Tested) -> str:
    """Say how a policy fared: certified, not certified, or not tested."""
    if tested.p_value is None:
        return "not tested"
    return "certified" if tested.certified else "not certified"


def openings_text(results: Results) -> str:
    """Say that the report split was opened again, with other choices or images; else nothing."""
    times = results.report_openings
    return f"The report split was opened {times} times by this study." if times > 1 else ""
