"""Why a request gets no answer from Ollama, each with its HTTP status and code."""

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Failure:
    """What Ollama answered to a load: passed on to those who waited for it, byte for byte."""

    status: int
    body: bytes
    content_type: str


class Rejection(Enum):
    """The scheduler's reasons to turn a request away: HTTP status, code, text for people."""

    QUEUE_FULL = (503, "queue_full", "the queue is full, please try again later")
    QUEUE_TIMEOUT = (504, "queue_timeout", "the model did not get its turn within queue_timeout")
    SWAP_TIMEOUT = (504, "swap_timeout", "the model was not loaded within model_swap_timeout; loading goes on")
    DRAIN_TIMEOUT = (504, "drain_timeout", "what is in memory did not finish its answers within drain_timeout")
    TOO_LARGE = (507, "model_too_large", "the model is larger than memory_budget_gb")
    PINNED_OUT = (507, "pinned_out", "pinned models leave no room for the model")
    PINNED = (409, "pinned", "the model is pinned, it stays in memory")
    LOAD_FAILED = (503, "load_failed", "the model could not be loaded")
    MADE_ANEW = (503, "made_anew", "the model was made anew meanwhile, please try again")
    BACKING_OFF = (503, "load_backoff", "the model could not be loaded a moment ago, please try again later")
    UPSTREAM_DOWN = (502, "upstream_unreachable", "Ollama is not reachable")
    SCHEDULER_FAULT = (500, "scheduler_fault", "internal error; see the proxy's log")
    SHUTTING_DOWN = (503, "shutting_down", "the proxy is shutting down")
    SUPERSEDED = (409, "superseded", "the model was wanted again before it was unloaded")
    UNLOAD_FAILED = (504, "unload_failed", "Ollama did not unload the model; something else may be using it")

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status = status
        self.code = code
        self.message = message


class ProxyError(Exception):
    """An answer that the proxy gives by itself.  `retry_after_s` becomes a Retry-After header."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class Rejected(ProxyError):
    """The scheduler turned a request away; `failure` is what Ollama said, where it said something."""

    def __init__(
        self, reason: Rejection, retry_after_s: float | None = None, failure: Failure | None = None, message: str = ""
    ) -> None:
        """`message` says it more exactly than the reason does."""
        super().__init__(reason.status, reason.code, message or reason.message, retry_after_s)
        self.reason = reason
        self.failure = failure
