"""Opens checkpoints of all formats: returns their config, family and tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_attention import untrusted
from keras_attention.weights import config_types, families
from keras_attention.weights.files import open_tensors, require_file

GENERATION = "generation"  # the entry of a source's config with these settings
_GENERATION = "generation_config.json"
_OF_GENERATION = (
    "bad_words_ids",
    "decoder_start_token_id",
    "eos_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)


@dataclass(frozen=True)
class Source:
    """A checkpoint whose tensors have not been read yet.

    Attributes:
        config: The config with the entries of Hugging Face's config.json.
        family: The module (or class) that builds the model and has its rules.
        tensors: A dict of a name to an object with `.shape` that `np.asarray` reads.
    """

    config: dict[str, Any]
    family: Any
    tensors: Mapping[str, Any]


def open_source(path: Path) -> Source:
    """Opens the checkpoint at a path.

    Args:
        path: A folder of Hugging Face, of Google's BERT or of OpenAI's GPT-2, or a
            `.bin` file of llama2.c.
    """
    if path.is_file():
        from keras_attention.weights import llama2c

        config, tensors = llama2c.read(path)
        return Source(config, llama2c, tensors)
    if not (path / "config.json").is_file():
        from keras_attention.weights import tf_checkpoint

        for form in tf_checkpoint.FORMATS:
            if (path / form.CONFIG).is_file():
                config = form.config(untrusted.read_object(path / form.CONFIG))
                config_types.check(config, path / form.CONFIG)
                return Source(config, form, tf_checkpoint.open_checkpoint(path))
    file = require_file(path, "config.json")
    config = untrusted.read_object(file)
    found = config
    if (path / _GENERATION).exists():
        # New versions of transformers write the start and end tokens to this file.
        found = untrusted.read_object(path / _GENERATION)
        known = {name: found[name] for name in _OF_GENERATION if name in found}
        config = {**config, **known}
    config = {**config, GENERATION: found}
    config_types.check(config, file)
    family = families.family_of_config(config, file)
    return Source(config, family, open_tensors(path))
