"""Statistics of a run: the published tables, and what they lack. `statistics(run, "goal").table()`."""
