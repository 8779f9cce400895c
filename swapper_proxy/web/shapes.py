"""How the proxy's own API shows what there is.  Keys may be added, none removed or renamed."""

import time
from datetime import UTC, datetime

from swapper_proxy.runtime.board import Board, Lane, ModelState, Resident, Snapshot, Waiting
from swapper_proxy.runtime.configuration import Configuration
from swapper_proxy.runtime.ports import ProblemRecord, RequestRecord, StateRecord, SwapRecord
from swapper_proxy.web import schemas


def status(snapshot: Snapshot, configuration: Configuration) -> schemas.StatusAnswer:
    """GET /status."""
    return {
        "status": "degraded" if snapshot.trouble else "healthy",
        "reason": snapshot.trouble or None,
        "ollama": "reachable" if snapshot.reachable else "unreachable",
        "started_at": _stamp(snapshot.started_at),
        "active_model": snapshot.active,
        "available_models": [m.name for m in snapshot.models],
        "loaded_models": [m.name for m in snapshot.models if m.loaded],
        "mode": configuration.settings.swapper.mode,
        "total_models": len(snapshot.models),
        "waiting": snapshot.waiting,
        "in_flight": snapshot.in_flight,
        "memory": [_resident(resident) for resident in snapshot.residents],
        "config": configured(configuration),
    }


def _resident(resident: Resident) -> schemas.Resident:
    return {
        "model": resident.model,
        "names": list(resident.names),
        "type": resident.type,
        "size_gb": None if resident.size_gb is None else round(resident.size_gb, 3),
        "status": resident.status,
    }


def configured(configuration: Configuration) -> schemas.ConfigState:
    """Which configuration is in force."""
    return {
        "source": configuration.settings.source,
        "loaded_at": stamp(configuration.loaded_at),
        "error": configuration.error or None,
        "needs_restart": list(configuration.needs_restart),
    }


def queue(board: Board) -> schemas.QueueAnswer:
    """GET /queue: who waits for what, since when, until when at most, and why; how many a model serves at once."""
    waiting, lanes = board.queue(), board.lanes()
    return {
        "waiting": board.waiting,
        "requests": [_waiting(w, time.time()) for w in waiting],
        "models": [_lane(lane) for lane in lanes],
        "warnings": [_doubt(lane) for lane in lanes if lane.doubtful],
    }


def stamp(moment: float | None) -> str | None:
    """UTC to the second, as the old service wrote it."""
    return None if moment is None else _stamp(moment)


def _stamp(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def moment(time: float) -> str:
    """UTC to the millisecond, as the history has it."""
    return datetime.fromtimestamp(round(time, 3), UTC).isoformat(timespec="milliseconds")


def described(state: ModelState) -> schemas.ListedModel:
    """An item of GET /models."""
    facts = state.facts
    shape: schemas.ListedModel = {
        "name": state.name,
        "ollama_name": state.ollama_name,
        "type": state.type,
        "size_gb": state.size_gb,
        "priority": state.priority,
        "status": state.status,
        "configured": state.configured,
        "pinned": facts.pinned,
        "remote": facts.remote,
        "waiting": state.waiting,
        "in_flight": state.in_flight,
        "holding": facts.activity == "holding",
        "uptime_s": round(state.residence.uptime_s, 3),
        "request_count": state.totals.requests,
        "tokens_per_second": _rounded(state.totals.tokens_per_second),
        "known_as": state.known_as,
        "activity": facts.activity,
        "work": state.work,
        "refusals": facts.refusals,
    }
    if state.status == "missing":
        shape["reason"] = how_to_pull(state.ollama_name)
    return shape


def with_times(state: ModelState) -> schemas.ModelAnswer:
    """GET /models/NAME."""
    residence = state.residence
    return {
        **described(state),
        "loaded_at": stamp(residence.loaded_at),
        "unloaded_at": stamp(residence.unloaded_at),
        "total_uptime_seconds": round(residence.uptime_total_s, 3),
    }


def measured(state: ModelState) -> schemas.ModelMetrics:
    """An item of GET /metrics, as JSON."""
    residence = state.residence
    total = residence.uptime_total_s
    return {
        "model_name": state.name,
        "status": state.status,
        "loaded_at": stamp(residence.loaded_at),
        "uptime_hours": round(total / 3600, 4),
        "request_count": state.totals.requests,
        "total_uptime_seconds": round(total, 3),
        "prompt_tokens": state.totals.prompt_tokens,
        "generated_tokens": state.totals.generated_tokens,
        "tokens_per_second": _rounded(state.totals.tokens_per_second),
        "time_to_first_token_seconds": _rounded(state.totals.mean_first_token_s),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _waiting(waiting: Waiting, now: float) -> schemas.WaitingRequest:
    return {
        "model": waiting.model,
        "priority": waiting.priority,
        "since": _stamp(waiting.since),
        "waited_seconds": round(now - waiting.since, 3),
        "deadline": _stamp(waiting.deadline),
        "estimated_start": stamp(waiting.start),
        "estimated_wait_seconds": None if waiting.start is None else round(max(0.0, waiting.start - now), 3),
        "may_force_at": stamp(waiting.forces_at),
        "why": waiting.why,
        "reason": waiting.reason,
        "blocked_by": waiting.blocker or None,
    }


def _lane(lane: Lane) -> schemas.Lane:
    return {
        "model": lane.model,
        "waiting": lane.waiting,
        "in_flight": lane.in_flight,
        "parallel": lane.parallel,
        "parallel_source": lane.parallel_source,
    }


def _doubt(lane: Lane) -> str:
    return (
        f"{lane.model}: {lane.waiting} requests wait because {lane.parallel} at once are assumed to be Ollama's limit; "
        "set `parallel`, or OLLAMA_NUM_PARALLEL as Ollama has it"
    )


def how_to_pull(ollama_name: str) -> str:
    """Return what to do about a model that Ollama does not have."""
    return f"Ollama does not have it; get it with: ollama pull {ollama_name}"


# What happened


def requested(record: RequestRecord) -> schemas.RequestEvent:
    return {
        "time": moment(record.time),
        "model": record.model,
        "endpoint": record.endpoint,
        "status": record.status,
        "wait_s": round(record.wait_s, 6),
        "first_byte_s": None if record.first_byte_s is None else round(record.first_byte_s, 6),
        "duration_s": round(record.duration_s, 6),
        "prompt_tokens": record.usage.prompt_tokens,
        "generated_tokens": record.usage.generated_tokens,
        "load_s": round(record.usage.load_s, 6),
        "generation_s": round(record.usage.generation_s, 6),
    }


def swapped(record: SwapRecord) -> schemas.SwapEvent:
    return {
        "time": moment(record.time),
        "from_model": record.from_model,
        "to_model": record.to_model,
        "reason": record.reason,
        "drain_s": round(record.drain_s, 6),
        "unload_s": round(record.unload_s, 6),
        "load_s": round(record.load_s, 6),
        "failed": record.failed,
    }


def changed(record: StateRecord) -> schemas.StateEvent:
    return {"time": moment(record.time), "model": record.model, "state": record.state, "cause": record.cause}


def went_wrong(record: ProblemRecord) -> schemas.ProblemEvent:
    return {
        "time": moment(record.time),
        "until": moment(max(record.time, record.until)),
        "model": record.model,
        "code": record.code,
        "status": record.status,
        "sent": record.sent,
        "count": record.count,
        "message": record.message,
    }
