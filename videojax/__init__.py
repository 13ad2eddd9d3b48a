"""videojax measures what compute buys in video generation."""

__version__ = "0.1.0"
