"""A cohort that is drawn from a known network, whose masters a study should find, and the demo that studies it."""
