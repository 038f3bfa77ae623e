"""Tests, fits and intervals from arrays to arrays. Nothing here knows a run, a file or the name of a column."""
