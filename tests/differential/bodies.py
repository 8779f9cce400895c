"""Bodies that are no JSON, or JSON that two readers could read differently."""

from typing import Any

from tests.differential.rows import CHAT, GENERATE, SHOW, SWAPPING, Row, Says, encoded
from tests.differential.wire import Request

ANSWER = '"stream":false,"options":{"num_predict":2,"temperature":0}'
TWICE = "Go would mix both values; the proxy does not guess"
DEEP = "deeper than the proxy reads; the issue lets it refuse"


def plain(note: str, body: Any) -> Row:
    """One that Ollama refuses, or that only names a model."""
    return GENERATE.body(note, body)


def said(note: str, members: str | bytes) -> Row:
    """One that is answered."""
    members = members.encode() if isinstance(members, str) else members
    return GENERATE.body(note, b'{"model":"alpha",' + members + b"," + ANSWER.encode() + b"}", warm="alpha")


def named(note: str, body: str | bytes) -> Row:
    """One that names alpha and has no prompt."""
    return GENERATE.body(note, body, warm="alpha")


def refused(note: str, body: str, why: str, text: str, ollama: Says) -> Row:
    return GENERATE.body(note, body, why=why, ollama=ollama, proxy=Says(400, text))


NOT_JSON = [
    route.body(note, body)
    for route in SWAPPING
    for note, body in (("no body", None), ("an empty body", ""), ("an array", []), ("cut off", '{"model":"alpha"'))
] + [
    plain("only white space", " \n\t\r "),
    plain("an open brace", "{"),
    plain("null", "null"),
    plain("null and more", 'null {"model":"alpha"}'),
    plain("an array with an object", [{"model": "alpha"}]),
    plain("a string", '"alpha"'),
    plain("a number", "7"),
    plain("true", "true"),
    plain("an empty object", {}),
    plain("a comma too many", '{"model":"alpha",}'),
    plain("a comment", '{"model":"alpha"/*x*/}'),
    plain("single quotes", "{'model':'alpha'}"),
    plain("a form", "model=alpha&prompt=x"),
    plain("a byte order mark", b'\xef\xbb\xbf{"model":"alpha"}'),
    plain("UTF-16", '{"model":"alpha"}'.encode("utf-16")),
    plain("NUL before it", '\0{"model":"alpha"}'),
    plain("a vertical tab before it", '\x0b{"model":"alpha"}'),
    plain("a no-break space before it", '\xa0{"model":"alpha"}'),
    plain("a form feed inside", '{"model":\x0c"alpha"}'),
    plain("a raw newline in a string", '{"model":"alpha","prompt":"a\nb"}'),
    plain("a raw NUL in a string", '{"model":"alpha","prompt":"a\0b"}'),
    plain("an unknown escape", '{"model":"\\x61lpha"}'),
    plain("no hex digits", '{"model":"alpha","x":"\\u00zz"}'),
    plain("NaN", '{"model":"alpha","x":NaN}'),
    plain("Infinity", '{"model":"alpha","x":-Infinity}'),
    plain("a leading zero", '{"model":"alpha","x":01}'),
    plain("a leading plus", '{"model":"alpha","x":+1}'),
    plain("no digit before the point", '{"model":"alpha","x":.5}'),
    plain("no digit after the point", '{"model":"alpha","x":1.}'),
    plain("a lone minus", '{"model":"alpha","x":-}'),
    plain("1e400 in the options", '{"model":"alpha","options":{"num_ctx":1e400}}'),
]

TRAILING = [
    named("text after it", '{"model":"alpha"} trailing'),
    named("a brace after it", '{"model":"alpha"}}'),
    named("an object after it", '{"model":"alpha"}{"model":"nope"}'),
    named("NUL after it", '{"model":"alpha"}\0'),
    named("no UTF-8 after it", b'{"model":"alpha"}\xff\xfe'),
    named("white space around it", ' \n\t{ "model" : "alpha" } \r\n'),
    CHAT.body("text after it", b'{"model":"alpha","messages":[]}x', warm="alpha"),
    SHOW.body("text after it", '{"model":"alpha"}x'),
]

KEYS = [
    said("keys in capitals", '"PROMPT":"x"'),
    said("escaped keys", '"\\u0070r\\u006fmpt":"x"'),
    said("a long s in a key", '"\\u017fystem":"be kind","prompt":"x"'),
    said("a Kelvin sign in a key", '"\u212aeep_alive":300,"prompt":"x"'),
    said("a dotless i in a key", '"opt\u0131ons":{"num_predict":9},"prompt":"x"'),
    said("a Turkish I in a key", '"opt\u0130ons":{"num_predict":9},"prompt":"x"'),
    said("an empty key", '"":1,"prompt":"x"'),
    said("unknown keys", '"nonsense":[{"a":[1,2]},null,1e5],"prompt":"x"'),
    plain("a key with a space", '{"model ":"alpha"}'),
    plain("MODEL of another kind", '{"MODEL":1}'),
    CHAT.body("MODEL", {"MODEL": "alpha", "messages": []}, warm="alpha"),
    CHAT.body("roles in capitals", {**CHAT.base, "messages": [{"ROLE": "user", "CONTENT": "x"}]}, warm="alpha"),
    SHOW.body("MODEL", {"MODEL": "alpha"}),
]

GIVEN_TWICE = [
    said("a text twice", '"prompt":"y","prompt":"x"'),
    said("a text twice in other case", '"prompt":"y","Prompt":"x"'),
    said("null, then a text", '"prompt":null,"prompt":"x"'),
    said("an option twice", '"prompt":"x","options":{"num_predict":9,"num_predict":1}'),
    said("an option twice, then null", '"prompt":"x","options":{"num_ctx":512,"num_ctx":null}'),
    said("options twice are one", '"prompt":"x","options":{"num_predict":9,"seed":3}'),
    said("options in other case are one, too", '"prompt":"x","OPTIONS":{"num_predict":9,"seed":3}'),
    said("an option in capitals is none", '"prompt":"x","options":{"NUM_PREDICT":1}'),
    named("the model twice", '{"model":"nope","model":"alpha"}'),
    named("the model in other case", '{"model":"nope","Model":"alpha"}'),
    named("the model, then null", '{"model":"alpha","model":null}'),
    plain("the model twice, unknown", '{"model":"alpha","MODEL":"nope"}'),
    named("keep_alive twice", '{"model":"alpha","keep_alive":"1h","keep_alive":300}'),
    refused(
        "a text, then null",
        '{"model":"alpha","prompt":"x","prompt":null,"stream":false}',
        TWICE,
        '\\"prompt\\" is given more than once',
        Says(200, '"done_reason":"length"'),
    ),
    refused(
        "arrays twice",
        '{"model":"alpha","prompt":"x","context":[1,2,3],"context":[5],"stream":false}',
        TWICE,
        '\\"context\\" is given more than once',
        Says(200, '"done_reason":"length"'),
    ),
    refused(
        "two kinds",
        '{"model":"alpha","prompt":["x"],"prompt":"x"}',
        TWICE,
        '\\"prompt\\" is given more than once',
        Says(400, "cannot unmarshal array"),
    ),
    CHAT.body(
        "messages twice",
        '{"model":"alpha","messages":[{"role":"user","content":"x"}],"Messages":[{"content":"y"}],"stream":false}',
        why=TWICE,
        ollama=Says(200, '"role":"assistant"'),
        proxy=Says(400, '\\"messages\\" is given more than once'),
    ),
]

CHARACTERS = [
    said("unicode", '"prompt":"\u00e4\u20ac\U0001f600"'),
    said("escaped unicode", '"prompt":"\\u00e4\\ud83d\\ude00"'),
    said("a lone surrogate", '"prompt":"\\ud800"'),
    said("surrogates the wrong way round", '"prompt":"\\udc00\\ud800x"'),
    said("a lone surrogate in a key", '"\\ud800":1,"prompt":"x"'),
    said("no UTF-8", b'"prompt":"a\xffb"'),
    said("overlong and cut off UTF-8", b'"prompt":"a\xed\xa0\x80b\xc0\x80\xe2\x82"'),
    said("no UTF-8 in a key", b'"a\xff":1,"prompt":"x"'),
    said("an escaped NUL", '"prompt":"a\\u0000b"'),
    said("DEL", '"prompt":"a\x7fb"'),
    plain("a lone surrogate in the model", '{"model":"alpha\\ud800"}'),
    plain("no UTF-8 in the model", b'{"model":"al\xffpha"}'),
    CHAT.body("no UTF-8", b'{"model":"alpha","messages":[{"role":"user","content":"\xff"}],' + ANSWER.encode() + b"}"),
]


def nested(levels: int) -> str:
    return '{"model":"alpha","x":' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


SIZES = [
    named("100 levels", nested(100)),
    *(
        refused(f"{levels} levels", nested(levels), DEEP, "nested too deeply", Says(200, '"done_reason":"load"'))
        for levels in (5000, 10_000)
    ),
    refused("20000 levels", nested(20_000), DEEP, "nested too deeply", Says(400, "exceeded max depth")),
    named("1e400 where nobody looks", '{"model":"alpha","x":1e400}'),
    named("an integer of 5000 digits", '{"model":"alpha","x":' + "9" * 5000 + "}"),
    said("5 MB where nobody looks", '"x":"' + "A" * 5_000_000 + '","prompt":"x"'),
    Row("in chunks", Request("POST", "/api/generate", encoded(GENERATE.base), chunked=True), warm="alpha"),
]

ROWS = [*NOT_JSON, *TRAILING, *KEYS, *GIVEN_TWICE, *CHARACTERS, *SIZES]
