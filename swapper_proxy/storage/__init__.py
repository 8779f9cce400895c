"""What outlives the proxy: the history of requests, swaps, states and problems, in SQLite."""
