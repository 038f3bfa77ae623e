"""Ray workers that stay: the pool and its ledger, workers and their warm models, leases, jobs of a cluster."""
