"""Methods side by side, each tuned with the same number of trials: ``resprune-tune compare``."""
