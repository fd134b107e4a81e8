"""resprune-tune: studies that find how far a model can be pruned, and certify what it costs."""
