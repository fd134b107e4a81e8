"""Does a small residual energy keep answers? ``resprune-tune surrogate``."""
