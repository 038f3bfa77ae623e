"""What people look at while and after something runs: progress, tables in a terminal, pictures."""
