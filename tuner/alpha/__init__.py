"""Fitting the alpha predictor: which arm suits which prompt."""

from tuner.alpha.adoption import CvRow
from tuner.alpha.fit import AlphaFit, fit_alpha

__all__ = ["AlphaFit", "CvRow", "fit_alpha"]
