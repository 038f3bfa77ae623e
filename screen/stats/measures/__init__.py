"""The statistics of `stats`, each with the columns it gives. What several of them compute from is one floor up."""
