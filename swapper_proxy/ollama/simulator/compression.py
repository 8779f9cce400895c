"""Request bodies that come compressed with zstd, as newer versions take them on /v1."""

import io
import sys

from aiohttp import web

from swapper_proxy.ollama.simulator.requests import RefusalError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LIMIT_BYTES = 20 << 20
OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}  # 8 MiB to remember at most


async def read(request: web.Request) -> bytes:
    """The body, unpacked if it is packed so; any other Content-Encoding is not looked at.  Raises RefusalError."""
    body = await request.read()
    if request.headers.get("Content-Encoding") != "zstd":
        return body
    try:
        with zstd.open(io.BytesIO(body), options=OPTIONS) as packed:
            plain: bytes = packed.read(LIMIT_BYTES + 1)
    except EOFError:
        raise RefusalError(400, "unexpected EOF") from None
    except zstd.ZstdError:
        raise RefusalError(400, "invalid input: magic number mismatch") from None
    if len(plain) > LIMIT_BYTES:
        raise RefusalError(400, "http: request body too large")
    return plain
