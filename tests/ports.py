"""The ports that tests listen on: none of those that the system hands out by itself.

For each load Ollama asks the system for a free port, closes it, and has its runner listen there a moment later.  If
somebody was given the same port meanwhile, the load fails.
"""

import errno
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

FIRST, NUMBER = 12_000, 20_000  # below what Linux, macOS and Windows hand out, and nothing that a browser refuses
MOST_TRIES = 100


@contextmanager
def of_their_own() -> Iterator[None]:
    """Where this process asks for any port to listen on, give it the next one of ours."""
    bind = socket.socket.bind
    place = random.SystemRandom().randrange(NUMBER)  # another one in each process

    def chosen(self: socket.socket, address: Any) -> None:
        nonlocal place
        if self.family not in (socket.AF_INET, socket.AF_INET6) or address[1] != 0:
            bind(self, address)
            return
        for tries in range(MOST_TRIES):
            place = (place + 1) % NUMBER
            try:
                bind(self, (address[0], FIRST + place, *address[2:]))
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE or tries == MOST_TRIES - 1:
                    raise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "bind", chosen)
        yield
