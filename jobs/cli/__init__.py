"""The command line: every verb with its options and their help, and exit codes. What a verb does is in `verbs`."""

from rankshift.jobs.cli.entry import main, run_command

__all__ = ["main", "run_command"]
