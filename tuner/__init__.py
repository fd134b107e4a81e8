"""resprune-tune: studies that find a model's pruning config and prove it."""
