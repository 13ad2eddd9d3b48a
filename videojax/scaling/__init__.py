"""Sweep records, FLOP accounting, laws and predictions; starts no runs."""
