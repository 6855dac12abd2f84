"""Writes the files that onnxruntime-genai and `tokenizers` read with `decoder.onnx`."""

import json
from pathlib import Path
from typing import Any

from keras_attention.tasks.causal_lm import CausalLM

CONFIG = "genai_config.json"
TOKENIZER = "tokenizer.json"


def write_genai(model: CausalLM, folder: Path) -> None:
    """Writes genai_config.json and, for a byte-level tokenizer, tokenizer.json.

    Args:
        model: The model whose `decoder` was written.
        folder: The folder with `decoder.onnx`.
    """
    config = json.dumps(_config(model), indent=2)
    (folder / CONFIG).write_text(config + "\n", encoding="utf-8")
    tokenizer = getattr(model.tokenizer, "to_tokenizer_json", None)
    if tokenizer is not None:
        text = json.dumps(tokenizer(), indent=1, ensure_ascii=False)
        (folder / TOKENIZER).write_text(text + "\n", encoding="utf-8")
        settings = json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
        (folder / "tokenizer_config.json").write_text(settings + "\n")


def _ends(model: CausalLM, end: int | None) -> int | list[int]:
    """Returns the tokens that end an answer: a number if there is one."""
    ends = model.defaults.get("stop_token_ids", [] if end is None else [end])
    return ends[0] if len(ends) == 1 else list(ends)


def _config(model: CausalLM) -> dict[str, Any]:
    decoder = model.decoder
    length = decoder.max_sequence_length
    ends = {
        role: getattr(model.tokenizer, f"{role}_token_id", None)
        for role in ("bos", "eos", "pad")
    }
    end = ends["eos"]
    others = [
        ends[role] if ends[role] is not None else end or 0 for role in ("bos", "pad")
    ]
    return {
        "model": {
            # The type decides only the names below; the computation is in the file.
            "type": "llama",
            "vocab_size": decoder.vocabulary_size,
            "context_length": length,
            "bos_token_id": others[0],
            "eos_token_id": _ends(model, end),
            "pad_token_id": others[1],
            "decoder": {
                "filename": "decoder.onnx",
                "head_size": decoder.key_dim,
                "hidden_size": decoder.hidden_dim,
                "num_attention_heads": decoder.num_heads,
                "num_hidden_layers": decoder.num_layers,
                "num_key_value_heads": decoder.num_key_value_heads,
                "session_options": {"log_id": "onnxruntime-genai"},
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "max_length": length,
            "past_present_share_buffer": False,
        },
    }
