"""Numbers that every path of the greedy expansion shares."""

from __future__ import annotations

import torch

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Residual energy, relative to the token's own, at which a token is exhausted."""

SAFE_PIVOT = 0.02
"""Relative residual energy below which a pick is divided by in float64.

The recurrence divides by the picked token's residual energy, so rounding grows with its inverse.
Over ill-conditioned features, float32 energies erred by at most 9e-5 of the token's own (2e-5 in 99
of 100 cases) while pivots stayed above 0.01, and by up to 4e-3 below.
"""
