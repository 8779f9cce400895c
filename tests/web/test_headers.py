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
    expected = [("Authorization", "Bearer x"), ("X-Name", "caf\u00e9"), ("X-Name", "two")]
    assert towards_ollama(raw, None) == expected
    assert towards_ollama([*raw, (b"Content-Length", b"9")], 5) == [*expected, ("Content-Length", "5")]


def test_ollama_s_own_cross_origin_answer_is_dropped() -> None:
    headers = [("Content-Type", "a/b"), ("Access-Control-Allow-Origin", "*"), ("Keep-Alive", "1")]
    assert towards_client(headers) == [("Content-Type", "a/b")]


def test_only_this_proxy_says_which_model_it_chose() -> None:
    assert towards_client([("x-swapper-model", "of another such proxy behind")]) == []


def test_the_time_in_the_queue_stands_beside_what_else_was_timed() -> None:
    headers = [("Server-Timing", "model;dur=3"), ("X-Swapper-Queue-Seconds", "9")]  # of another such proxy behind
    assert [*towards_client(headers), *queued(1.2344)] == [
        ("Server-Timing", "model;dur=3"),
        ("X-Swapper-Queue-Seconds", "1.234"),
        ("Server-Timing", "queue;dur=1234.4"),
    ]
