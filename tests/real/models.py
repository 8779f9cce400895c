"""Tiny random-weight models for a real Ollama, written with the `gguf` package when the tests run.

They load in a quarter of a second (`slow` in one to two) and answer gibberish at hundreds of tokens a second.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, PoolingType, TokenType

WIDTH, HEADS = 64, 4  # widths of 512 and more crash this build
CONTEXT = 2048
EOS = 2


@dataclass(frozen=True)
class Weights:
    """One GGUF file.  Another seed is another blob, so another runner."""

    seed: int
    layers: int = 2
    feed_forward: int = 128
    embedding_only: bool = False
    broken: bool = False  # speaks of a layer it does not have: Ollama takes it and cannot load it


@dataclass(frozen=True)
class Model:
    """A name over weights; two names over the same weights share one runner."""

    weights: Weights
    modelfile: str = "PARAMETER num_predict 16\n"


CHAT = (Weights(seed=1), Weights(seed=2), Weights(seed=3))

MODELS = {
    "alpha": Model(CHAT[0]),
    "beta": Model(CHAT[1]),
    "gamma": Model(CHAT[2]),
    "alpha-kind": Model(CHAT[0], "PARAMETER num_predict 16\nSYSTEM be kind\n"),
    "alpha-512": Model(CHAT[0], "PARAMETER num_predict 16\nPARAMETER num_ctx 512\n"),
    "embedder": Model(Weights(seed=4, embedding_only=True), ""),
    "slow": Model(Weights(seed=5, layers=120, feed_forward=4096)),
}


def write_gguf(path: Path, weights: Weights) -> None:
    """A llama-architecture model with a byte-level vocabulary that Ollama can load and run on the CPU."""
    writer = GGUFWriter(path, "llama")
    _metadata(writer, weights)
    size = _vocabulary(writer)
    _tensors(writer, weights, size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _metadata(writer: GGUFWriter, weights: Weights) -> None:
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(weights.layers + weights.broken)
    writer.add_feed_forward_length(weights.feed_forward)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_file_type(1)
    if weights.embedding_only:  # a pooling type is how Ollama tells an embedder from a chat model
        writer.add_pooling_type(PoolingType.MEAN)


def _vocabulary(writer: GGUFWriter) -> int:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁the", "▁a", "▁of", "▁to"]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256, *[TokenType.NORMAL] * 4]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(EOS)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    return len(tokens)


def _tensors(writer: GGUFWriter, weights: Weights, vocabulary: int) -> None:
    random = np.random.default_rng(weights.seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * 0.1).astype(np.float16)

    output = matrix(vocabulary, WIDTH)
    output[EOS] = 0  # a logit of 0 never reaches the 40 best, so a stream ends at num_predict and not by chance
    writer.add_tensor("token_embd.weight", matrix(vocabulary, WIDTH))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output.weight", output)
    parts = dict.fromkeys(("attn_norm", "ffn_norm"), np.ones(WIDTH, np.float32))
    parts |= {part: matrix(WIDTH, WIDTH) for part in ("attn_q", "attn_k", "attn_v", "attn_output")}
    parts |= {part: matrix(weights.feed_forward, WIDTH) for part in ("ffn_gate", "ffn_up")}
    parts["ffn_down"] = matrix(WIDTH, weights.feed_forward)
    for layer in range(weights.layers):  # all alike: many random numbers take seconds
        for part, values in parts.items():
            writer.add_tensor(f"blk.{layer}.{part}.weight", values)
