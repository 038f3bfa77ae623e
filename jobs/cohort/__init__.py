"""A study of a cohort: labelled cells of several donors become a verdict for every gene, by steps of which each can go on.

What a step computes is in `screen.study` (numbers alone) or behind another verb; here is the order, the folder, and the page.
"""
