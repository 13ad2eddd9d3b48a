"""videojax: what compute buys in video generation, measured."""

__version__ = "0.1.0"
