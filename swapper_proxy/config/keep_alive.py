"""`keep_alive` as Ollama understands it, and what of it the scheduler keeps instead of Ollama."""

import math
import re

KeepAlive = int | float | str

# What is below this is kept by the scheduler, so that Ollama does not unload under those who wait.
LEAST_S = 60
# Ollama is told to keep for so long what stays, again and again (see runtime.standby): it lets go by itself if the
# proxy is killed.  This is longer than its own default, so that what stays is not the first that it lets go.
STAY_S = 600
LONGEST_S = 9_223_372_036  # a Go duration is 63 bits of nanoseconds

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)


class InvalidKeepAlive(ValueError):
    """Ollama would answer 400 to it."""


def seconds_of(value: KeepAlive) -> float:
    """Seconds of a keep_alive; negative is for ever (infinity).

    Numbers are whole seconds, strings Go durations (`1h30m`, `-1m`, `0`).  Raises InvalidKeepAlive.
    """
    if isinstance(value, int | float):
        if not math.isfinite(value):
            raise InvalidKeepAlive(f"expected a finite number of seconds, got {value}")
        return math.inf if value < 0 else float(int(value)) if value < 1e9 else math.inf
    sign, text = ("-", value[1:]) if value[:1] == "-" else ("", value.removeprefix("+"))
    if text == "0":
        return 0.0
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidKeepAlive(f"expected seconds or a duration like 5m, got {value!r}")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds >= LONGEST_S:
        raise InvalidKeepAlive(f"expected at most {LONGEST_S} s, got {value!r}")
    return math.inf if sign and seconds > 0 else seconds


def divided(value: KeepAlive | None) -> tuple[KeepAlive | None, float | None]:
    """What of a keep_alive goes to Ollama, and the time to live that the scheduler keeps (core.events.Arrived.ttl_s).

    Raises InvalidKeepAlive.
    """
    if value is None:
        return None, None
    seconds = seconds_of(value)
    return (LEAST_S, seconds) if seconds < LEAST_S else (value, math.inf)
