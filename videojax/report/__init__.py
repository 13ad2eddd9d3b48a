"""Pages from the records of a sweep."""
