"""Adaptive screens: which rows of a screen are worth measuring when only the genes of strongest effect are wanted.

Arrays in, arrays out; no model is run here, and an estimate is never passed for a measured value.
"""
