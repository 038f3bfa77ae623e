"""`python -m rankshift`: the command of this very Python."""

from rankshift.jobs.cli.entry import main

main()
