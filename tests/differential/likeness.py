"""When two answers count as the same: all is compared but what differs between any two answers of one Ollama."""

import re

from tests.differential.wire import Reply

# Values that are another's at another time.  Inside of a text the quotes are escaped, so nothing said is touched.
_VOLATILE = re.compile(
    rb'"(created_at|modified_at|expires_at)":"[^"]*"'
    rb'|"(created|total_duration|load_duration|prompt_eval_duration|eval_duration)":\d+'
    rb'|"(id)":"(?:chatcmpl|cmpl)-\d+"'
)
# What belongs to the clock, and what the proxy adds by itself (README).
_UNCOMPARED = {"date", "x-swapper-queue-seconds", "server-timing", "x-request-id"}


def scrubbed(body: bytes) -> bytes:
    """The body with every volatile value replaced; keys, their order and all other bytes stay."""
    return _VOLATILE.sub(lambda found: b'"%b":VOLATILE' % next(filter(None, found.groups())), body)


def comparable(reply: Reply, *, unordered: bool = False) -> dict[str, object]:
    """All that the two sides have to agree on; `unordered`: Ollama shows models and parameters in any order."""
    headers = sorted(header for header in reply.headers if header[0] not in _UNCOMPARED)
    body = scrubbed(reply.body)
    if body != reply.body:  # then its length is volatile too, but not that it is given
        headers = [(name, "VOLATILE" if name == "content-length" else value) for name, value in headers]
    return {"status": reply.status, "headers": headers, "body": sorted(body) if unordered else body}
