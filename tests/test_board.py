"""What keeps requests from being served, as the board says it."""

from unittest.mock import Mock

import pytest

from swapper_proxy.runtime.board import Board
from swapper_proxy.runtime.reachability import LOOP


@pytest.mark.parametrize(
    ("closing", "reachable", "loops", "blind", "trouble"),
    [
        (False, True, False, False, ""),
        (False, True, False, True, "the scheduler failed, and what is in memory is not known yet"),
        (False, False, False, True, "Ollama is not reachable"),
        (False, False, True, False, LOOP),
        (True, True, False, True, "the proxy is shutting down"),
        (True, False, True, False, "the proxy is shutting down"),
    ],
)
def test_trouble(closing: bool, reachable: bool, loops: bool, blind: bool, trouble: str) -> None:
    ollama = Mock(trouble=LOOP if loops else "Ollama is not reachable", closing=Mock(is_set=lambda: closing))
    engine = Mock(ollama=ollama, reachable=reachable, is_blind=blind, now=0.0, residencies=lambda: ())
    assert Board(Mock(), engine, Mock()).trouble == trouble
