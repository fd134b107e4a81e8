"""The nouns of a prompt, against which visual tokens are found relevant (ResPrune, 2603.21105).

ResPrune is said to use spaCy's ``en_core_web_sm``; where that is not installed the embedded
pipeline stands in for it.

``NounExtractor().nouns("What color is the dog on the left?")`` is ``['color', 'dog', 'left']``.
"""

from resprune.nouns.extractor import STOP_NOUNS, NounExtractor, TaggedWord
from resprune.nouns.pipelines import EMBEDDED, PipelineError, available

__all__ = ["EMBEDDED", "STOP_NOUNS", "NounExtractor", "PipelineError", "TaggedWord", "available"]
