"""What Ollama does, as one text: the same assertions hold for the real one and for whatever stands in for it."""
