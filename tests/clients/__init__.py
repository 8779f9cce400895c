"""Unmodified clients do real work through the proxy."""
