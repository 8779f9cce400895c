"""Model names: one spelling for all that Ollama treats as equal."""

import pytest

from swapper_proxy.core.names import LONGEST, canonical, is_cloud, is_plausible


@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        ("llama3", "llama3:latest"),
        ("Llama3:8B", "llama3:8b"),
        ("  llama3 ", "  llama3 :latest"),
        ("llama3:", "llama3:"),
        ("library/llama3", "llama3:latest"),
        ("registry.ollama.ai/library/llama3:latest", "llama3:latest"),
        ("registry.ollama.ai/me/own", "me/own:latest"),
        ("me/own:1", "me/own:1"),
        ("hf.co/me/own:q4_0", "hf.co/me/own:q4_0"),
        ("hf.co/library/own", "hf.co/library/own:latest"),
        ("localhost:5000/me/own", "localhost:5000/me/own:latest"),
        ("\u212aI", "\u212ai:latest"),  # no letter that Ollama knows, whatever its lower case is
    ],
)
def test_canonical(name: str, spelling: str) -> None:
    assert canonical(name) == spelling
    assert canonical(spelling) == spelling


def test_what_is_too_long_for_a_name_is_left_alone() -> None:
    name = "Library/" + "X" * LONGEST
    assert canonical(name) == name


@pytest.mark.parametrize(
    ("name", "cloud"),
    [
        ("gpt-oss:120b-cloud", True),
        ("x:Cloud", True),
        ("cloud", False),
        ("x:cloudy", False),
        ("host-cloud:80/me/x", False),
        ("x:1", False),
    ],
)
def test_is_cloud(name: str, cloud: bool) -> None:
    assert is_cloud(name) is cloud


@pytest.mark.parametrize(
    ("name", "plausible"),
    [
        ("hf.co/me/own:q4_0", True),
        ("with a space", True),
        ("x" * LONGEST, True),
        ("x" * (LONGEST + 1), False),
        ("line\nbreak", False),
        ("\x1b[31m", False),
        ("\u2028", False),
        ("\ud800", False),
    ],
)
def test_what_anything_may_be_called(name: str, plausible: bool) -> None:
    assert is_plausible(name) is plausible
