"""Bodies are read as Go reads them, and names as Ollama spells them."""

import pytest

from tests.contract.asking import Ask


@pytest.mark.parametrize(
    "body",
    [
        '{"MODEL":"alpha","Prompt":"","sTREAM":true,"KEEP_alive":0}',
        '{"model":"nope","model":"alpha","keep_alive":"1h","keep_alive":0}',
        '{"model":"nope","MODEL":"alpha","keep_alive":0}',
        '{"model":"alpha","model":null,"keep_alive":0}',
        '{"model":"alpha","keep_alive":0} and more',
        '{"model":"alpha","keep_alive":0}}}',
        ' \n\t{"model":"alpha","keep_alive":0}',
        '{"\\u006dodel":"alpha","keep_alive":0}',
        '{"model":"alpha","keep_alive":0,"nonsense":[{"a":[1,2]},null,1e5]}',
        '{"model":"alpha","keep_alive":0,"options":null,"stream":null}',
    ],
)
async def test_means_to_unload_alpha(ask: Ask, body: str) -> None:
    answer = await ask.post("/api/generate", body)
    assert (answer.status, answer.json["model"], answer.json["done_reason"]) == (200, "alpha", "unload")


@pytest.mark.parametrize(
    "body",
    ['{"model":"alpha","keep_alive":0,"keep_alive":null}', '{"model":"alpha","options":{"num_ctx":null}}'],
)
async def test_null_unsets_what_is_not_a_text(ask: Ask, body: str) -> None:
    answer = await ask.post("/api/generate", body)
    assert (answer.status, answer.json["done_reason"]) == (200, "load")


@pytest.mark.parametrize("body", ['{"MODEL":"alpha","model":"nope"}', '{"model":"nope","model":null}'])
async def test_means_nope(ask: Ask, body: str) -> None:
    answer = await ask.post("/api/generate", body)
    assert (answer.status, answer.text) == (404, """{"error":"model 'nope' not found"}""")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "nonsense"])
@pytest.mark.parametrize("path", ["/api/generate", "/v1/completions"])
async def test_the_content_type_is_not_looked_at(ask: Ask, path: str, content_type: str) -> None:
    answer = await ask.post(path, '{"model":"nope"} trailing', **{"Content-Type": content_type})
    assert answer.status == 404
    assert "model 'nope' not found" in answer.text


@pytest.mark.parametrize(
    "name",
    [
        "alpha",
        "ALPHA",
        "alpha:latest",
        "alpha:LATEST",
        "library/alpha",
        "Library/Alpha:latest",
        "registry.ollama.ai/library/alpha:latest",
        "https://registry.ollama.ai/library/alpha",
    ],
)
class TestSpellings:
    async def test_are_one_model_and_answered_as_spelled(self, ask: Ask, name: str) -> None:
        for path in ("/api/generate", "/api/chat", "/api/embed"):
            answer = await ask.post(path, {"model": name})
            assert (answer.status, answer.json["model"]) == (200, name)
        assert await ask.names() == ["alpha:latest"]

    async def test_are_shown(self, ask: Ask, name: str) -> None:
        assert (await ask.post("/api/show", {"model": name})).status == 200

    async def test_case_counts_in_the_legacy_endpoint(self, ask: Ask, name: str) -> None:
        answer = await ask.post("/api/embeddings", {"model": name})
        if name == name.lower():
            assert answer.status == 200
        else:
            assert (answer.status, answer.json["error"]) == (404, f'model "{name}" not found, try pulling it first')


@pytest.mark.parametrize("name", ["other/alpha", "alpha:other", "example.com/library/alpha"])
async def test_other_models(ask: Ask, name: str) -> None:
    answer = await ask.generate(name)
    assert (answer.status, answer.json["error"]) == (404, f"model '{name}' not found")
