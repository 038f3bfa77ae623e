"""From counts to rank lists: files of counts, columns of genes, rank value encoding, vocabularies of a corpus.

What reads a token table that exists is in `cells`.
"""
