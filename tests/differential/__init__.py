"""The proxy and the real Ollama behind it, asked the same."""
