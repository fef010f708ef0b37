"""Builds OpenVINO's graph of a BERT-family model from its weights.

It supports BERT (Devlin et al. 2018, https://arxiv.org/abs/1810.04805), RoBERTa and XLM-RoBERTa, which count positions
differently. Tensor names are those of transformers; the pooling is that of sentence-transformers.
"""

from __future__ import annotations

import numpy as np
import openvino
import openvino.opset13 as ops
from openvino import Node

from headrace_embedder.model_folder import Config
from headrace_embedder.weights import Array, Tensors

WORDS = "embeddings.word_embeddings.weight"
_TYPES = "embeddings.token_type_embeddings.weight"
_UNUSED = ("pooler.", "embeddings.position_ids", "embeddings.token_type_ids")
"""Tensors that the encoder does not need: the pooler predicts the next sentence, and the IDs are constants."""
_LEAST_NORM = 1e-12
INPUTS = ("input_ids", "attention_mask")


def build(config: Config, weights: Tensors, pooling: str, *, normalised: bool) -> openvino.Model:
    """Return the graph: ``input_ids`` and ``attention_mask`` (texts, tokens) to vectors (texts, numbers).

    Raises the error of the weights if they do not match the configuration.
    """
    ids = ops.parameter([-1, -1], np.int64)
    mask = ops.parameter([-1, -1], np.int64)
    ones = ops.convert(mask, "f32")
    read = ops.convert(ops.unsqueeze(mask, [1, 2]), "boolean")  # (texts, 1, 1, tokens), false for padding
    state = _embeddings(ids, config, weights)
    for layer in range(config.num_hidden_layers):
        state = _layer(state, read, config, weights, f"encoder.layer.{layer}.")
    weights.finish(*_UNUSED)
    vectors = _mean(state, ones) if pooling == "mean" else ops.gather(state, 0, 1)
    if normalised:
        vectors = ops.normalize_l2(vectors, [1], _LEAST_NORM * _LEAST_NORM, "max")
    graph = openvino.Model([vectors], [ids, mask], "sentences")
    for one, name in zip(graph.inputs, INPUTS, strict=True):
        one.get_tensor().set_names({name})
    return graph


def _embeddings(ids: Node, config: Config, weights: Tensors) -> Node:
    """Return the sum of the word and position vectors; all tokens of a text have the first token type."""
    size = config.hidden_size
    words = ops.gather(_constant(weights.take(WORDS, weights.rows(WORDS), size)), ids, 0)
    table = weights.take("embeddings.position_embeddings.weight", config.max_position_embeddings, size)
    first_type = weights.take(_TYPES, weights.rows(_TYPES), size)[0]
    positions = ops.gather(_constant(table + first_type), _positions(ids, config), 0)
    return _normalised(ops.add(words, positions), weights, "embeddings.LayerNorm", config)


def _positions(ids: Node, config: Config) -> Node:
    """Return the row of the position table for each token.

    BERT uses the token's index. RoBERTa gives padding the position of its own ID and counts the tokens after it.
    """
    if not config.counts_from_padding:
        return ops.range(np.int64(0), ops.gather(ops.shape_of(ids), 1, 0), np.int64(1), "i64")
    padding = np.int64(config.pad_token_id)
    tokens = ops.convert(ops.not_equal(ids, padding), "i64")
    return ops.add(ops.multiply(ops.cum_sum(tokens, np.int64(1)), tokens), padding)


def _layer(state: Node, read: Node, config: Config, weights: Tensors, name: str) -> Node:
    """Return the state after a layer: attention, then a feed-forward network, each with a residual connection."""
    heads, size = config.num_attention_heads, config.hidden_size
    query, key, value = (
        ops.transpose(
            ops.reshape(_linear(state, weights, f"{name}attention.self.{part}", size, size), [0, 0, heads, -1], True),
            [0, 2, 1, 3],
        )
        for part in ("query", "key", "value")
    )
    attended = ops.transpose(ops.scaled_dot_product_attention(query, key, value, read), [0, 2, 1, 3])
    attended = _linear(ops.reshape(attended, [0, 0, size], True), weights, f"{name}attention.output.dense", size, size)
    state = _normalised(ops.add(attended, state), weights, f"{name}attention.output.LayerNorm", config)
    width = weights.rows(f"{name}intermediate.dense.weight")
    wide = _activated(_linear(state, weights, f"{name}intermediate.dense", width, size), config.hidden_act)
    narrow = _linear(wide, weights, f"{name}output.dense", size, width)
    return _normalised(ops.add(narrow, state), weights, f"{name}output.LayerNorm", config)


def _linear(state: Node, weights: Tensors, name: str, to: int, of: int) -> Node:
    matrix = _constant(weights.take(f"{name}.weight", to, of))
    return ops.add(ops.matmul(state, matrix, False, True), _constant(weights.take(f"{name}.bias", to)))


def _normalised(state: Node, weights: Tensors, name: str, config: Config) -> Node:
    """Return the state with mean 0 and variance 1 for each token, scaled and shifted by the weights."""
    scale = _constant(weights.take(f"{name}.weight", config.hidden_size))
    shift = _constant(weights.take(f"{name}.bias", config.hidden_size))
    even = ops.mvn(state, [-1], True, config.layer_norm_eps, "inside_sqrt")
    return ops.add(ops.multiply(even, scale), shift)


def _activated(state: Node, name: str) -> Node:
    if name == "relu":
        return ops.relu(state)
    if name in ("silu", "swish"):
        return ops.swish(state)
    return ops.gelu(state, "erf" if name == "gelu" else "tanh")


def _mean(state: Node, ones: Node) -> Node:
    """Return the mean over the tokens of each text, without padding."""
    weighted = ops.multiply(state, ops.unsqueeze(ones, 2))
    return ops.divide(ops.reduce_sum(weighted, 1), ops.reduce_sum(ones, 1, True))


def _constant(numbers: Array) -> Node:
    return ops.constant(numbers, shared_memory=True)
