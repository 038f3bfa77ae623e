"""The page of a study: the audit, the gate, verdicts with the donors behind them, and how it was made. One file."""
