"""A run as a place to explore: small answers to what a page asks (a gene, a map, chosen cells, two runs), and its server.

Everything is asked of the runs' views in one DuckDB that only reads; nothing is written to a run, and nothing is tested here:
tests are those that `rankshift stats` keeps.
"""
