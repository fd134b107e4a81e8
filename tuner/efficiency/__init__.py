"""What pruning costs and saves: times, arithmetic and memory, paired with the unpruned model."""
