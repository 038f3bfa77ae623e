"""Names by which drivers and workers find the pool on a cluster. Nothing else, so that every file of the room may import it."""

NAMESPACE = "rankshift"
POOL = "rankshift-pool"  # the name of the running pool; private ones have names of their own
