"""Studies of several donors, as functions over arrays: audit, draw, folds, gate, verdicts, validation. No file is written here.

`rankshift study` (jobs) puts them in their order. What is computed per cell or by a model lives elsewhere.
"""
