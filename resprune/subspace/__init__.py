"""Greedy subspace expansion (ResPrune, arXiv 2603.21105): the fast exact path and its oracle.

Pure tensors: nothing here knows of transformers.
"""

from resprune.subspace.gram import gram_matrix
from resprune.subspace.greedy import greedy_order, greedy_order_batch
from resprune.subspace.reference import reference_order

__all__ = ["gram_matrix", "greedy_order", "greedy_order_batch", "reference_order"]
