"""What every kind of test may use."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests import ports
from tests.lost_ports import pytest_runtest_protocol
from tests.own_time import own_time, passes
from tests.real.install import find
from tests.real.server import OllamaServer

__all__ = ["own_time", "passes", "pytest_runtest_protocol"]

# `make test` tries the same examples each time: what fails there was broken by the change.  How long an example takes
# says nothing on a busy machine.  `make fuzz` tries others each time.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("fuzz", deadline=None, max_examples=5000, print_blob=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The proxies of the tests keep no history in the user's own place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def ports_of_their_own() -> Iterator[None]:
    """What listens here takes no port that Ollama may have been promised."""
    with ports.of_their_own():
        yield


@pytest.fixture(scope="session")
def ollama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaServer]:
    """A real Ollama that holds one model at a time, with all of `tests.real.models`."""
    with OllamaServer(find(), tmp_path_factory.mktemp("ollama"), OLLAMA_MAX_LOADED_MODELS="1").holding() as server:
        yield server
