"""An arm for a prompt: specificity features, and a predictor in plain JSON run with numpy.

Relevance weighting (ResPrune, arXiv 2603.21105, g(r) = r^alpha) helps a prompt whose nouns point
at a place in the image and hurts one whose nouns point nowhere. `prompt_features` measures that
difference and `AlphaPredictor` turns it into an alpha, or into an arm of more options than alpha;
`tuner.alpha` fits it.
"""

from resprune.alpha.arms import Arm, Arms, least, nearest_first
from resprune.alpha.features import FEATURE_NAMES, FEATURES, PromptContext, prompt_features
from resprune.alpha.forms import form_digest, question_form
from resprune.alpha.predictor import PREDICTOR_FILE, AlphaPredictor, BudgetModel, PredictorData
from resprune.alpha.regressors import Forest, Linear, Regressor, expand_pairs

__all__ = [
    "FEATURES",
    "FEATURE_NAMES",
    "PREDICTOR_FILE",
    "AlphaPredictor",
    "Arm",
    "Arms",
    "BudgetModel",
    "Forest",
    "Linear",
    "PredictorData",
    "PromptContext",
    "Regressor",
    "expand_pairs",
    "form_digest",
    "least",
    "nearest_first",
    "prompt_features",
    "question_form",
]
