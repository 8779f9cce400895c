"""Conversations that have begun already."""

import pytest

from swapper_proxy.core.events import Arrived, Finished, Loaded, Tick
from tests.core.talk import A, B, Talk


@pytest.fixture
def talk() -> Talk:
    """Room for one, nobody there."""
    return Talk()


@pytest.fixture
def with_a() -> Talk:
    """Room for one, A resident since 1, generation 1; request 1 is answered at 2.  A's unload and load take 2 s."""
    talk = Talk()
    talk(0, Arrived(1, A))
    talk(1, Loaded(A, 1))
    talk(2, Finished(1), Tick())
    return talk


@pytest.fixture
def with_a_and_b() -> Talk:
    """Room for two, A and B resident (generations 1 and 2), A used before B, both idle."""
    talk = Talk(max_resident=2)
    talk(0, Arrived(1, A), Arrived(2, B))
    talk(1, Loaded(A, 1))
    talk(2, Loaded(B, 2))
    talk(3, Finished(1))
    talk(4, Finished(2), Tick())
    return talk
