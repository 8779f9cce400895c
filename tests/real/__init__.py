"""A real Ollama for the tests: where its binary comes from, tiny models for it, and its process."""
