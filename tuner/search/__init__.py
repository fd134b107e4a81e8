"""The search of a study: space, objectives, trials, and the choice among them."""
