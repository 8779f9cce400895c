"""`python -m swapper_proxy` is `swapper-proxy`."""

from swapper_proxy.cli import main

if __name__ == "__main__":
    main()
