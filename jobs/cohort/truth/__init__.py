"""`rankshift validate`: a study or a run beside a table of what the wet lab found."""
