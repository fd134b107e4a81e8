"""The stages of a study, in the order of `tuner.run`."""
