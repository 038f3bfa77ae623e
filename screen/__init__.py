"""One machine, no Ray: from cells and a bundle to committed shifts and SQL."""
