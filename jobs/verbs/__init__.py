"""What a command does, callable from Python: screen, embed, query, stats, export, the demo. It parses no arguments."""
