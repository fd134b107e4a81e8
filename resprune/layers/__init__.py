"""Pruning inside the LLM: methods at work on the decoder layers of an unmodified model."""

from resprune.layers.left import Left
from resprune.layers.pruner import LayerPruner
from resprune.layers.support import check_generate, check_inside, compact_inside, decoder_of

__all__ = ["LayerPruner", "Left", "check_generate", "check_inside", "compact_inside", "decoder_of"]
