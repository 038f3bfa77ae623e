"""The figures of a report, a file each, with where names go and how figures look. What the page says lies one floor up."""
