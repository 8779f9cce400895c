"""Bodies damaged at random, judged by Go: the proxy reads what Go reads, and what it sends on means the same."""

import random

from swapper_proxy.web.body import Ambiguous, Fields, Malformed
from tests.differential.wire import Request, exchange
from tests.real.server import OllamaServer

BODIES = (
    b'{"model":"nope","x":[1,2.5e3,-0,{"a":null,"b":true,"c":"\\u00e9\\n\\ud83d\\ude00\xc3\xa4"}],"options":{"n":5}} ',
    b'{"Model":"nope","options":{"a":1},"OPTIONS":{"a":"\\\\"}}',
    b' {"model":"nope","y":"\\ud800\\u0041","z":1e9999,"w":{"k":{},"l":[]}}\n{}',
    b'{"model":"nope","system":"a","verbose":false,"template":"b"}',
)
PIECES = (
    *(b'"', b"\\", b"\\u", b"{", b"}", b"[", b"]", b",", b":", b"0", b"-", b".", b"e", b"+", b"d800", b"/*"),
    *(b"\xff", b"\xe2\x82", b"\xef\xbb\xbf", b"\0", b"\n", b"\x7f", b"\x0b", b" "),
    *(b"true", b'"model":"b",', b'"MODEL":null,', b'"system":null,'),
)
NUMBER = 600


def damaged(chance: random.Random) -> bytes:
    """One of the bodies with up to three pieces put in, taken out or overwritten."""
    body = chance.choice(BODIES)
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(body) + 1)
        piece = chance.choice([*PIECES, b""])
        body = body[:place] + piece + body[place + chance.randint(0, 2) :]
    return body


async def test_the_proxy_reads_what_go_reads(ollama_server: OllamaServer) -> None:
    async def asked(body: bytes) -> tuple[int, bytes]:
        reply = await exchange(ollama_server.url, Request("POST", "/api/show", body))
        return reply.status, reply.body

    chance, read = random.Random(1), 0
    for _ in range(NUMBER):
        body = damaged(chance)
        answer = await asked(body)
        try:
            sent = b"".join(Fields.read(body).pieces())
        except Malformed:
            assert answer[0] == 400, body
        except Ambiguous:
            continue
        else:
            read += 1
            assert await asked(sent) == answer, body
            assert b"invalid character" not in answer[1], body
    assert NUMBER / 10 < read < NUMBER
