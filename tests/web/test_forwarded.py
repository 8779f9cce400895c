"""What proxies in front say of a client."""

from unittest.mock import Mock

import pytest
from multidict import CIMultiDict

from swapper_proxy.web.forwarded import Forwarding


def request(remote: str, **headers: str) -> Mock:
    given = CIMultiDict((name.replace("_", "-"), value) for name, value in headers.items())
    return Mock(remote=remote, host="own:8890", headers=given)


@pytest.mark.parametrize(
    ("trusted", "remote", "told", "address"),
    [
        ((), "192.0.2.9", "198.51.100.1", "192.0.2.9"),
        (("10.0.0.0/8",), "192.0.2.9", "198.51.100.1", "192.0.2.9"),
        (("10.0.0.0/8",), "10.0.0.1", "198.51.100.1", "198.51.100.1"),
        (("10.0.0.0/8",), "::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        (("10.0.0.0/8",), "10.0.0.1", "", "10.0.0.1"),
        (("10.0.0.1",), "10.0.0.1", "203.0.113.7, 198.51.100.1", "198.51.100.1"),  # what the client itself said
        (("10.0.0.0/8",), "10.0.0.1", "203.0.113.7, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        (("10.0.0.0/8",), "10.0.0.1", "10.0.0.3,10.0.0.2", "10.0.0.3"),
        (("10.0.0.0/8",), "10.0.0.1", "198.51.100.1, nonsense", "10.0.0.1"),
        (("fd00::/8",), "fd00::1", "2001:db8::1", "2001:db8::1"),
        (("10.0.0.0/8",), "", "198.51.100.1", ""),
    ],
)
def test_the_address_of_the_client(trusted: tuple[str, ...], remote: str, told: str, address: str) -> None:
    assert Forwarding(trusted).address(request(remote, X_Forwarded_For=told)) == address


@pytest.mark.parametrize(
    ("trusted", "told", "host"),
    [
        ((), "llm.example.com", "own:8890"),
        (("10.0.0.2",), "llm.example.com", "own:8890"),
        (("10.0.0.1",), "llm.example.com", "llm.example.com"),
        (("10.0.0.1",), "localhost, llm.example.com", "llm.example.com"),
        (("10.0.0.1",), "", "own:8890"),
    ],
)
def test_the_host_that_was_asked_for(trusted: tuple[str, ...], told: str, host: str) -> None:
    assert Forwarding(trusted).host(request("10.0.0.1", X_Forwarded_Host=told)) == host
