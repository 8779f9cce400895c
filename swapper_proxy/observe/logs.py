"""Log lines: text for people or one JSON object a line.  Values that come from requests are quoted."""

import logging
import time

import msgspec

# The attributes that `extra` may carry.
FIELDS = (
    "request_id",
    "address",
    "key",
    "model",
    "endpoint",
    "status",
    "code",
    "wait_s",
    "load_s",
    "expected_s",
    "unload_s",
    "replaced",
    "cause",
)


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC), level, logger, message and the fields given."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class TextFormatter(logging.Formatter):
    """Time, level, message, then the fields as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        fields = " ".join(f"{name}={msgspec.json.encode(value).decode()}" for name, value in _fields(record).items())
        return f"{super().formatMessage(record)} {fields}".rstrip()


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name in FIELDS if (value := getattr(record, name, None)) not in (None, "")}


def configure(level: str, style: str) -> None:
    """Log to standard error from now on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


class SwapLog:
    """One line per swap."""

    def __init__(self) -> None:
        self._log = logging.getLogger("swapper_proxy.swaps")

    def loaded(self, model: str, seconds: float, expected_s: float, replaced: str, cause: str) -> None:
        times = {"load_s": round(seconds, 3), "expected_s": round(expected_s, 3)}
        self._log.info("loaded", extra={"model": model, **times, "replaced": replaced, "cause": cause})

    def load_failed(self, model: str, seconds: float, status: int) -> None:
        self._log.warning("load failed", extra={"model": model, "load_s": round(seconds, 3), "status": status})

    def unloaded(self, model: str, seconds: float, cause: str) -> None:
        self._log.info("unloaded", extra={"model": model, "unload_s": round(seconds, 3), "cause": cause})

    def reloaded(self, model: str, seconds: float, cause: str) -> None:
        text = "Ollama loaded it behind the proxy's back"
        self._log.warning(text, extra={"model": model, "load_s": round(seconds, 3), "cause": cause})

    def upstream(self, reachable: bool, why: str = "") -> None:
        if reachable:
            self._log.info("Ollama is reachable")
        else:
            self._log.error("Ollama is not reachable%s", f": {why}" if why else "")
