"""Swapper Proxy: one address in front of Ollama that swaps models seldom, starves nobody and counts everything."""

__version__ = "0.1.0"
