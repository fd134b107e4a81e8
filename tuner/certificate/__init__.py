"""Certificates: tests of a claim, the order of testing, and how many images a claim needs.

Pure numbers; the certificate itself is ``resprune.certificate``.
"""

from __future__ import annotations

from tuner.certificate.betting import Betting, betting_p_value, log_wealth
from tuner.certificate.choose import resolve_test
from tuner.certificate.exact import exact_p_value
from tuner.certificate.margins import Bounds, bounded, drawn_order, margins, mean_loss
from tuner.certificate.normal import t_p_value
from tuner.certificate.planning import (
    images_needed,
    images_to_bet,
    images_to_pass,
    images_to_prove,
    least_images,
    power,
    require_provable,
    smallest_loss,
)
from tuner.certificate.sequence import Entry, Split, certify, check, order_by_promise

__all__ = [
    "Betting",
    "Bounds",
    "Entry",
    "Split",
    "betting_p_value",
    "bounded",
    "certify",
    "check",
    "drawn_order",
    "exact_p_value",
    "images_needed",
    "images_to_bet",
    "images_to_pass",
    "images_to_prove",
    "least_images",
    "log_wealth",
    "margins",
    "mean_loss",
    "order_by_promise",
    "power",
    "require_provable",
    "resolve_test",
    "smallest_loss",
    "t_p_value",
]
