"""Files that are not ours to invent: written whole or not at all, in object stores, and foreign formats read with suspicion.

Nothing here knows a gene, a cell or a run.
"""
