"""Files: written whole, checked, and read again."""
