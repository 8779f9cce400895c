"""Tells whether two host names, one to listen on and one to connect to, mean the same place."""

import ipaddress
import socket

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_served(listen_host: str, host: str) -> bool:
    """Return True if a server that listens on `listen_host` is what a client of `host` may reach, on the same port.

    False also where a name cannot be resolved: nobody can know then.
    """
    served = _addresses(listen_host or "0.0.0.0") | (set() if listen_host else _addresses("::"))
    return any(_covers(own, address) for address in map(_reached, _addresses(host)) for own in served)


def is_loopback(host: str) -> bool:
    """Return True if this name or address can mean nothing but this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _covers(own: Address, address: Address) -> bool:
    """Return True if a server on `own` serves `address`; asyncio binds "::" to IPv6 alone."""
    if own.version != address.version:
        return False
    return own == address or (own.is_unspecified and _is_of_this_machine(address))


def _addresses(host: str) -> set[Address]:
    """The addresses of a name or of a literal address; none if there are none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {_plain(str(address[0])) for *_, address in found}


def _plain(text: str) -> Address:
    """An address without its zone; one of IPv4 that is written as one of IPv6 is one of IPv4."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _reached(address: Address) -> Address:
    """Where a connection to this address goes: to connect to "any address" reaches this machine."""
    if not address.is_unspecified:
        return address
    return ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")


def _is_of_this_machine(address: Address) -> bool:
    """Return True if a socket can have this address here."""
    if address.is_loopback:
        return True
    try:
        with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
