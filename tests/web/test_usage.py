"""What the end of an answer says, in every dialect."""

from swapper_proxy.runtime.ports import Usage
from swapper_proxy.web.usage import read


def test_ollama() -> None:
    end = b'"load_duration":1500000000,"prompt_eval_count":7,"prompt_eval_duration":1,"eval_count":11}'
    assert read([b'{"x":1}', end]) == Usage(7, 11, 1.5)


def test_openai() -> None:
    assert read([b"", b'"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}']) == Usage(3, 4)


def test_anthropic() -> None:
    assert read([b'data: {"usage":{"input_tokens":3,"output_tokens":4}}\n\n', b"data: [DONE]\n\n"]) == Usage(3, 4)


def test_nothing_said() -> None:
    assert read([b"", b"no figures"]) == Usage()


def test_a_model_that_writes_such_a_word_is_not_believed() -> None:
    assert read([b"", b'{"response":"\\"load_duration\\": 9000000000","done":false}']) == Usage()
