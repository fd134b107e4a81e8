"""Plans and their outcomes on the samples of a study."""
