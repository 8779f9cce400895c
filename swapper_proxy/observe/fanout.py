"""Several listeners as one, that cannot harm each other nor whoever tells them."""

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


class Fanout:
    """Pass each call on to all listeners that have a method of this name.

    A listener that raises is logged; the others are told all the same, and the caller does not notice.  It stands for
    any protocol whose methods return nothing: Observer, Recorder, RequestMetrics.
    """

    def __init__(self, *listeners: object) -> None:
        self._listeners = listeners

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Make the method when it is called for the first time.  Raises AttributeError if no listener has it."""
        methods = [getattr(listener, name) for listener in self._listeners if hasattr(listener, name)]
        if self._listeners and not methods:
            raise AttributeError(name)

        def tell(*what: object) -> None:
            for method in methods:
                try:
                    method(*what)
                except Exception:  # whatever it is: requests must go on
                    log.exception("a listener failed", extra={"cause": f"{type(method.__self__).__name__}.{name}"})

        self.__dict__[name] = tell
        return tell
