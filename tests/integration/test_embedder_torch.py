"""What needs torch: the graph beside the live model, models of other architectures, and the backend itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from tokenizers import Tokenizer, processors
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from headrace.errors import ConfigurationError
from headrace_embedder.agreement import least_cosine
from headrace_embedder.local_model import load
from headrace_embedder.openvino_model import built, fetched
from headrace_embedder.runnable import compiled, padded, runner
from headrace_embedder.settings import EmbedderSettings, model_path
from headrace_embedder.torch_model import encoder, in_precision, load_model
from headrace_embedder.types import Vectors

pytestmark = pytest.mark.torch

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "river", "dam", "bread", "flour", "stone", "wheel"]
TEXTS = ["river", "", "dam bread flour " * 3, "stone " * 80, "wheel <pad> river", "unheard of"]
VARIETIES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_act": "relu", "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 40},
    "bert ": {"hidden_act": "gelu_new", "num_hidden_layers": 4, "num_attention_heads": 2, "layer_norm_eps": 1e-6},
    "roberta": {"hidden_act": "silu", "num_hidden_layers": 3, "num_attention_heads": 8},
    "xlm-roberta": {"hidden_act": "gelu", "num_hidden_layers": 2, "max_position_embeddings": 50},
}
"""By architecture; none is the packaged model's shape."""


def made(folder: Path, architecture: str, pooling: str, *, half: bool = False, **settings: Any) -> Path:
    """Write a model with random weights by transformers and sentence-transformers, as they write theirs."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    torch.manual_seed(5)
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
    )  # fmt: skip
    size = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4} if architecture == "distilbert" else {
        "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    }  # fmt: skip
    config = AutoConfig.for_model(
        architecture, vocab_size=len(WORDS), pad_token_id=1, initializer_range=0.5, **{**size, **settings}
    )
    encoder = AutoModel.from_config(config)
    plain = folder / "plain"
    (encoder.half() if half else encoder).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    modules = [Transformer(str(plain)), Pooling(32, pooling_mode=pooling), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "tiny"))
    return folder / "tiny"


def by_graph(folder: Path, texts: list[str]) -> Vectors:
    """Return the vectors of the graph that is built from the folder's weights, in float32."""
    found = built(folder)
    return runner(compiled(openvino.Core(), found.graph, "f32"), found)(texts)


@pytest.mark.parametrize("name", VARIETIES)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_graph_agrees_with_transformers(tmp_path: Path, name: str, pooling: str) -> None:
    """Broken: transformers changed, or the graph is right for the packaged model's shape alone."""
    folder = made(tmp_path, name.strip(), pooling, **VARIETIES[name])
    model = load_model(str(folder), "cpu").float()
    assert built(folder).facts.limit in (model.max_seq_length, model.max_seq_length - 2)
    texts = [" ".join(text.split()[:30]) for text in TEXTS]  # RoBERTa's own limit is two tokens too high
    wanted = model.encode(texts, batch_size=1)
    assert least_cosine(wanted, by_graph(folder, texts)) >= 0.99999
    assert least_cosine(wanted, encoder(model)(texts)) >= 0.99999


def test_weights_in_half_precision_agree(tmp_path: Path) -> None:
    """Broken: a model that was saved in float16 is read as noise."""
    folder = made(tmp_path, "bert", "mean", half=True)
    wanted = load_model(str(folder), "cpu").float().encode(TEXTS, batch_size=1)
    assert least_cosine(wanted, by_graph(folder, TEXTS)) >= 0.99999


def test_the_graph_agrees_with_the_live_packaged_model() -> None:
    """Broken: the recorded vectors are not torch's any more, or texts are tokenised in another way."""
    texts = ["", "벡터 색인은 문서가 바뀌면 갱신된다.", "🙂", "word " * 600, "Crème brûlée", "[CLS] a [PAD] b"]
    model = load_model("all-MiniLM-L6-v2", "cpu").float()
    found = built(fetched(model_path("all-MiniLM-L6-v2")))
    theirs = model.preprocess(texts)
    ours = padded(found.tokenizer, found.facts)(texts)
    assert found.facts.limit == model.max_seq_length
    for name, numbers in theirs.items():
        if name in ours:
            np.testing.assert_array_equal(ours[name], numbers.numpy())
    assert {"input_ids", "attention_mask"} <= theirs.keys()
    wanted = model.encode(texts, batch_size=1)
    exact = runner(compiled(openvino.Core(), found.graph, "f32"), found)
    assert least_cosine(wanted, exact(texts)) >= 0.99999


def test_float32_stays_exact_and_bfloat16_is_compared_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying bfloat16 would round the weights of the model that float32 falls back to."""
    model = load_model("all-MiniLM-L6-v2", "cpu")
    before = model.encode(["a sentence"])
    monkeypatch.setattr("headrace_embedder.torch_model.LEAST_COSINE", 1.1)
    monkeypatch.setattr("headrace_embedder.torch_model.fast_bfloat16", lambda: True)
    kept = in_precision(model, "auto")
    np.testing.assert_array_equal(kept.encode(["a sentence"]), before)
    with pytest.raises(ConfigurationError, match="HEADRACE_EMBEDDER_PRECISION"):
        in_precision(model, "bfloat16")


def test_another_architecture_is_converted_once_and_runs_without_torch(tmp_path: Path) -> None:
    """Each start would convert it, and the service would hold what it does not need."""
    folder, cache = made(tmp_path, "distilbert", "mean"), tmp_path / "cache"
    program = (
        "import sys; from headrace_embedder.local_model import load; from headrace_embedder.settings import *;"
        f"found = load(EmbedderSettings(model={str(folder)!r}, device='cpu', backend='openvino', dimensions=32,"
        f"cache_dir={str(cache)!r}));"
        "print(found.encode(['river', 'dam bread']).shape, 'torch' in sys.modules, found.details['backend'])"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
        for _ in range(2)
    )
    assert first.stdout.splitlines()[-1] == second.stdout.splitlines()[-1] == "(2, 32) False openvino"
    assert "converting the model" in first.stdout
    assert "converting the model" not in second.stdout
    (home,) = cache.iterdir()
    settings = EmbedderSettings(model=str(home), device="cpu", precision="float32")
    wanted = load_model(str(folder), "cpu").float().encode(TEXTS, batch_size=1)
    assert least_cosine(wanted, load(settings).encode(TEXTS)) >= 0.99999


def test_a_model_that_cannot_be_converted_is_taken_by_torch_or_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A model that torch runs well would keep the service from starting."""
    monkeypatch.setattr("headrace_embedder.conversion._CONVERTER", ("-c", "raise SystemExit('no such operation')"))
    cache = tmp_path / "cache"
    settings = EmbedderSettings(model=str(made(tmp_path, "distilbert", "mean")), device="cpu", cache_dir=cache)
    assert load(settings).details["backend"] == "torch"
    with pytest.raises(ConfigurationError, match=r"no such operation.*HEADRACE_EMBEDDER_MODEL"):
        load(settings.model_copy(update={"backend": "openvino"}))
    assert list(cache.iterdir()) == []


def test_a_model_is_converted_where_nothing_can_be_kept(tmp_path: Path) -> None:
    """A container whose file system is read-only would not start."""
    (tmp_path / "file").touch()
    folder = made(tmp_path, "distilbert", "mean")
    settings = EmbedderSettings(model=str(folder), device="cpu", backend="openvino", cache_dir=tmp_path / "file" / "x")
    assert load(settings).details["backend"] == "openvino"
    assert (tmp_path / "file").read_bytes() == b""
