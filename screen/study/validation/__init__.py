"""A screen or a study held against what the wet lab says: tables of truth, rankings of hits, and the comparison of both."""
