"""Pruning a loaded model: on and off, one call's steps and record, what generate must be told."""
