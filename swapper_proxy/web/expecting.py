"""`Expect: 100-continue` (RFC 9110 §10.1.1): the client sends its body once it is told to.

It is told when the body is about to be read: after origins, keys and the length that it announces were checked.
"""

from aiohttp import HttpVersion11, web


def is_awaited(request: web.BaseRequest) -> bool:
    """Return True if the client waits to be told, and has sent nothing of its body yet."""
    content = request.content
    if content.is_eof() or content.total_bytes or request.version < HttpVersion11:
        return False
    return request.headers.get("Expect", "").strip().lower() == "100-continue"


def tell(request: web.BaseRequest) -> None:
    """Send `100 Continue` to a client that waits for it.  Call it once, before the body is read."""
    if is_awaited(request) and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
