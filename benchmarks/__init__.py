"""Measurements of the scheduler; run them from a checkout."""
