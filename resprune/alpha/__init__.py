"""Alpha for a prompt: specificity features, and a predictor in plain JSON run with numpy.

Relevance weighting (ResPrune, arXiv 2603.21105, g(r) = r^alpha) helps a prompt whose nouns point
at a place in the image and hurts one whose nouns point nowhere. `prompt_features` measures that
difference and `AlphaPredictor` turns it into an alpha; `tuner.alpha_fit` fits it.
"""

from resprune.alpha.features import FEATURE_NAMES, FEATURES, PromptContext, prompt_features
from resprune.alpha.predictor import PREDICTOR_FILE, AlphaPredictor, BudgetModel
from resprune.alpha.regressors import Forest, Linear

__all__ = [
    "FEATURES",
    "FEATURE_NAMES",
    "PREDICTOR_FILE",
    "AlphaPredictor",
    "BudgetModel",
    "Forest",
    "Linear",
    "PromptContext",
    "prompt_features",
]
