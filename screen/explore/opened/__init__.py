"""What is opened before anything is asked: runs with their kept means, the user's tables, maps of cells, in one connection."""
