"""Generated input, some of it near to what is valid.  A short run is part of `make test`; `make fuzz` takes minutes."""
