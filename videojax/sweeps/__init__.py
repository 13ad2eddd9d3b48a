"""The cells of a sweep, and the loop over them."""
