"""Presets of the ResPrune paper's tables: ``resprune-tune paper``."""
