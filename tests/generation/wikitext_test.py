"""The perplexity of WikiText-2 (Merity et al. 2016) is that of transformers."""

import gzip
import json
import os
import pathlib

import numpy as np
import pytest

import keras_attention as ka

WINDOW, STRIDE = 256, 128


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_perplexity_of_wikitext_is_that_of_transformers(tmp_path, record_property):
    root = pathlib.Path(os.environ.get("KERAS_ATTENTION_DATA", "nowhere"))
    texts = root / "wikitext2_valid_test" / "test.txt.gz"
    if not texts.exists():
        pytest.skip("KERAS_ATTENTION_DATA names no folder with wikitext2_valid_test/")
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_positions=WINDOW, n_embd=32, n_layer=2, n_head=2)
    theirs = GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    files = root / "tokenizers" / "gpt2"
    vocabulary = gzip.decompress((files / "encoder.json.gz").read_bytes())
    (tmp_path / "vocab.json").write_bytes(vocabulary)
    merges = gzip.decompress((files / "vocab.bpe.gz").read_bytes())
    (tmp_path / "merges.txt").write_bytes(merges)

    ours = ka.from_pretrained(tmp_path)
    text = gzip.decompress(texts.read_bytes()).decode()
    ids = np.asarray(ours.tokenizer.encode_whole([text])["token_ids"][0])
    assert ids.max() < len(json.loads(vocabulary))
    # Larger vectors: probabilities then differ as much as those of a trained model.
    with torch.no_grad():
        theirs.transformer.wte.weight *= 8
    ours.decoder.token_embedding.embeddings.assign(
        theirs.transformer.wte.weight.detach().numpy()
    )
    found = ours.score([text], window=WINDOW, stride=STRIDE, batch_size=8)
    expected = their_perplexity(theirs, ids)
    record_property(
        "summary",
        f"wikitext-2 test, {len(ids)} tokens: perplexity {found['perplexity']:.4f}, "
        f"of transformers {expected:.4f}",
    )
    assert found["perplexity"] == pytest.approx(expected, rel=1e-4)


def their_perplexity(model, ids):
    """Computes it with sliding windows, as the documentation of transformers does."""
    import torch

    total, counted, previous = 0.0, 0, 0
    for start in range(0, len(ids), STRIDE):
        end = min(start + WINDOW, len(ids))
        inputs = torch.tensor(ids[None, start:end].astype("int64"))
        labels = inputs.clone()
        labels[:, : previous - start] = -100
        with torch.no_grad():
            loss = model(inputs, labels=labels).loss.double()
        number = int((labels[:, 1:] != -100).sum())
        total, counted, previous = total + loss * number, counted + number, end
        if end == len(ids):
            break
    return float(torch.exp(total / counted))
