"""What outlives the proxy: the history of requests, swaps and states, in SQLite."""
