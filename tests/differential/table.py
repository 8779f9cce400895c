"""The table: what is sent to both sides, and which routes of Ollama 0.9.3 it has to cover."""

from tests.differential import bodies, fields, http, models, names

_ALL = [*bodies.ROWS, *names.ROWS, *fields.ROWS, *models.ROWS, *http.ROWS]
# Those that start with the same model in memory one after the other: fewer loads.
ROWS = sorted(_ALL, key=lambda row: row.warm)

# Method and path; the one part that varies is a star.
ROUTES = [
    *(("POST", f"/api/{name}") for name in ("generate", "chat", "embed", "embeddings")),
    *(("POST", f"/api/{name}") for name in ("pull", "push", "create", "copy", "show")),
    *(("POST", f"/v1/{name}") for name in ("chat/completions", "completions", "embeddings")),
    *((method, f"/{name}") for method in ("GET", "HEAD") for name in ("", "api/tags", "api/version")),
    *(("GET", f"/{name}") for name in ("api/ps", "v1/models", "v1/models/*")),
    *((method, "/api/blobs/sha256:*") for method in ("POST", "HEAD")),
    ("DELETE", "/api/delete"),
]
