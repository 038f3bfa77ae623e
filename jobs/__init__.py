"""The cluster: workers, fan-out, training jobs and the command line."""
