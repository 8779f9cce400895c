"""Log lines: quoted, in either format."""

import json
import logging

from swapper_proxy.observe.logs import JsonFormatter, TextFormatter


def record(**fields: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": "refused", "levelname": "WARNING", "name": "x"})
    made.__dict__.update(fields)
    return made


def test_json() -> None:
    line = json.loads(JsonFormatter().format(record(model='a\n"b', wait_s=1.5, prompt="secret")))
    assert (line["message"], line["model"], line["wait_s"], line["level"]) == ("refused", 'a\n"b', 1.5, "warning")
    assert "secret" not in str(line)


def test_text_is_one_line_whatever_a_request_holds() -> None:
    line = TextFormatter().format(record(model="a\nFAKE LINE", status=503))
    assert line.endswith('WARNING refused model="a\\nFAKE LINE" status=503')
    assert "\n" not in line
