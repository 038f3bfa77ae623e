"""`python -m rankshift.jobs.cli`: the command `rankshift` of this very Python."""

from rankshift.jobs.cli.entry import main

main()
