"""Which headers go through, and with which bytes."""

from swapper_proxy.web.headers import queued, towards_client, towards_ollama


def test_hop_by_hop_host_and_origin_stay_here() -> None:
    raw = [
        (b"Host", b"proxy"),
        (b"Origin", b"http://localhost"),
        (b"Connection", b"close, X-Mine"),
        (b"X-Mine", b"1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"X-Swapper-Priority", b"low"),
        (b"Authorization", b"Bearer x"),
        (b"X-Name", "caf\u00e9".encode()),
        (b"X-Name", b"two"),
    ]
    expected = [(b"Authorization", b"Bearer x"), (b"X-Name", "caf\u00e9".encode()), (b"X-Name", b"two")]
    assert towards_ollama(raw, None) == expected
    read = [*raw, (b"Content-Length", b"9"), (b"Content-Encoding", b"gzip")]
    assert towards_ollama(read, 5) == [*expected, (b"Content-Length", b"5")]
    assert towards_ollama(read, 5, frozenset([b"authorization"])) == [*expected[1:], (b"Content-Length", b"5")]


def test_ollama_s_own_cross_origin_answer_is_dropped() -> None:
    headers = [(b"Content-Type", b"a/b"), (b"Access-Control-Allow-Origin", b"*"), (b"Keep-Alive", b"1")]
    assert towards_client(headers) == [(b"Content-Type", b"a/b")]


def test_only_this_proxy_says_which_model_it_chose() -> None:
    assert towards_client([(b"x-swapper-model", b"of another such proxy behind")]) == []


def test_the_time_in_the_queue_stands_beside_what_else_was_timed() -> None:
    headers = [(b"Server-Timing", b"model;dur=3"), (b"X-Swapper-Queue-Seconds", b"9")]  # of another such proxy behind
    assert [*towards_client(headers), *queued(1.2344)] == [
        (b"Server-Timing", b"model;dur=3"),
        (b"X-Swapper-Queue-Seconds", b"1.234"),
        (b"Server-Timing", b"queue;dur=1234.4"),
    ]
