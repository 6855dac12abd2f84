"""TensorFlow checkpoints of the original authors: Google's BERT and OpenAI's GPT-2.

This is the only module of `weights` that imports TensorFlow, which reads the format.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_attention.untrusted import clip
from keras_attention.weights import bert_hf, gpt2_hf
from keras_attention.weights.rules import (
    KERNEL,
    KERNEL_OF_HEADS,
    LINEAR,
    LINEAR_OF_HEADS,
    Layout,
    Rule,
)


@dataclass(frozen=True)
class CheckpointTensor:
    """A tensor of a TensorFlow checkpoint, which `np.asarray` reads.

    Attributes:
        reader: The reader that `tf.train.load_checkpoint` returned.
        name: The tensor's name in the checkpoint.
        shape: The tensor's shape.
    """

    reader: Any
    name: str
    shape: tuple[int, ...]

    def __array__(self, dtype=None, copy=None):
        import tensorflow as tf

        try:
            array = self.reader.get_tensor(self.name)
        except (tf.errors.OpError, ValueError, IndexError, RuntimeError) as error:
            raise ValueError(
                "The data of the checkpoint is damaged or incomplete: "
                f"{clip(error)}. No model was loaded; fetch it again. "
                f"Received: tensor '{clip(self.name)}'"
            ) from error
        return array if dtype is None else array.astype(dtype, copy=False)


def open_checkpoint(folder: Path) -> dict[str, CheckpointTensor]:
    """Returns the tensors of the only checkpoint of a folder, without reading them."""
    import tensorflow as tf

    found = sorted(folder.glob("*.ckpt*.index"))
    if len(found) != 1:
        there = ", ".join(sorted(path.name for path in folder.iterdir()))
        raise FileNotFoundError(
            "The folder must hold one TensorFlow checkpoint, *.ckpt.index with "
            f"*.ckpt.data-00000-of-00001. Received: {clip(folder)} with "
            f"{clip(there, 1000)}"
        )
    prefix = found[0].with_suffix("")
    if not list(folder.glob(f"{prefix.name}.data-*")):
        raise FileNotFoundError(
            "The checkpoint has an index but no data. Fetch the file "
            f"{clip(prefix.name)}.data-00000-of-00001 too. Received: {clip(folder)}"
        )
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError, IndexError, RuntimeError) as error:
        raise ValueError(
            f"{clip(found[0].name)} is damaged or incomplete: {clip(error)}. Nothing "
            f"was loaded; fetch the file again. Received: {clip(found[0])}"
        ) from error
    return {
        name: CheckpointTensor(reader, name, tuple(shape))
        for name, shape in shapes.items()
    }


class GoogleBert:
    """BERT of 2018: bert_config.json with bert_model.ckpt."""

    CONFIG = "bert_config.json"
    PREFIXES = ("bert/",)
    IGNORED: ClassVar = {
        "*/adam_m": "of the optimizer",
        "*/adam_v": "of the optimizer",
        "global_step": "of the optimizer",
        "cls/*": "of the task heads of its training",
    }

    @staticmethod
    def config(entries: dict[str, Any]) -> dict[str, Any]:
        """Returns the config with Hugging Face's entries."""
        fixed = {"model_type": "bert", "layer_norm_eps": 1e-12}
        return {**fixed, **entries}

    @staticmethod
    def header(config: dict) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
        """Returns `bert_hf.header` with Google's names and shapes."""
        layers, shapes = bert_hf.header(config)
        count, found = layers["encoder.layer."], {}
        for name, shape in shapes.items():
            stem = name.replace("encoder.layer.", "encoder/layer_")
            stem = stem.removesuffix(".weight").replace(".", "/")
            is_table = stem.startswith("embeddings/")
            found[stem if is_table else f"{stem}/kernel"] = (
                shape if is_table else shape[::-1]
            )
        return {"encoder/layer_": count}, found

    @staticmethod
    def build(config: dict, names: Any) -> Any:
        """Builds the encoder."""
        pooler = "pooler.dense.weight"
        there = {pooler} if "pooler/dense/kernel" in names else set()
        return bert_hf.build(config, there)

    @staticmethod
    def rules(model: Any) -> Iterator[Rule]:
        """Yields the rules of Hugging Face's BERT with Google's names."""
        for rule in bert_hf.rules(model):
            name = rule.tensor.replace("encoder.layer.", "encoder/layer_")
            stem, _, last = name.replace(".", "/").rpartition("/")
            if stem.endswith("LayerNorm"):
                name = f"{stem}/{'gamma' if last == 'weight' else 'beta'}"
            elif stem.startswith("embeddings/"):
                name = stem
            else:
                name = f"{stem}/{'kernel' if last == 'weight' else 'bias'}"
            layout = _NOT_TRANSPOSED.get(rule.layout.name, _same)
            yield Rule(name, rule.variable, layout(rule.layout))

    @staticmethod
    def named(rule: Rule) -> Rule:
        """Returns the rule of a head with Google's name of the tensor, and its axes.

        Args:
            rule: The rule with Hugging Face's name.
        """
        stem, _, last = rule.tensor.replace(".", "/").rpartition("/")
        if stem == "cls/predictions":
            return replace(rule, tensor=f"{stem}/output_bias")
        if stem == "cls/seq_relationship":  # transposed there too
            name = "output_weights" if last == "weight" else "output_bias"
            return replace(rule, tensor=f"{stem}/{name}")
        if stem.endswith("LayerNorm"):
            name = "gamma" if last == "weight" else "beta"
            return replace(rule, tensor=f"{stem}/{name}")
        name = "kernel" if last == "weight" else "bias"
        layout = _NOT_TRANSPOSED.get(rule.layout.name, _same)(rule.layout)
        return replace(rule, tensor=f"{stem}/{name}", layout=layout)


class OpenAiGpt2:
    """GPT-2 of 2019: hparams.json with model.ckpt."""

    CONFIG = "hparams.json"
    PREFIXES = ("model/",)
    IGNORED: ClassVar = {}

    @staticmethod
    def config(entries: dict[str, Any]) -> dict[str, Any]:
        """Returns the config with Hugging Face's entries."""
        names = {"n_vocab": "vocab_size", "n_ctx": "n_positions"}
        given = {names.get(name, name): value for name, value in entries.items()}
        fixed = {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
        return {"model_type": "gpt2", **fixed, **given}

    @staticmethod
    def header(config: dict) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
        """Returns `gpt2_hf.header` with OpenAI's names and shapes."""
        layers, shapes = gpt2_hf.header(config)
        found = {}
        for name, shape in shapes.items():
            stem = name.removesuffix(".weight").replace(".", "/")
            is_table = stem in ("wte", "wpe")
            stem = stem if is_table else f"{stem.replace('h/', 'h', 1)}/w"
            found[stem] = shape if is_table else (1, *shape)
        return {"h": layers["h."]}, found

    @staticmethod
    def build(config: dict, names: Any) -> Any:
        """Builds the decoder."""
        return gpt2_hf.build(config, names)

    @staticmethod
    def rules(model: Any) -> Iterator[Rule]:
        """Yields the rules of Hugging Face's GPT-2 with OpenAI's names and shapes."""
        for rule in gpt2_hf.rules(model):
            stem, _, last = rule.tensor.removeprefix("h.").rpartition(".")
            stem = stem.replace(".", "/")
            if rule.tensor.startswith("h."):
                stem = f"h{stem}"
            if stem in ("wte", "wpe"):
                yield Rule(stem, rule.variable)
            elif "/ln_" in stem or stem == "ln_f":
                name = f"{stem}/{'g' if last == 'weight' else 'b'}"
                yield Rule(name, rule.variable, rule.layout)
            elif last == "bias":
                yield Rule(f"{stem}/b", rule.variable, rule.layout)
            else:
                yield Rule(f"{stem}/w", rule.variable, _stacked(rule.layout))


def _same(layout: Layout) -> Layout:
    return layout


def _not_transposed(layout: Layout) -> Layout:
    return KERNEL_OF_HEADS if layout is LINEAR_OF_HEADS else KERNEL


_NOT_TRANSPOSED: dict[str, Callable[[Layout], Layout]] = {LINEAR.name: _not_transposed}


def _stacked(layout: Layout) -> Layout:
    """Returns the layout with a first axis of size 1: a convolution of width 1."""
    return Layout(
        f"{layout.name}, with an axis of 1",
        lambda x, shape: layout.read(np.squeeze(x, 0), shape),
        lambda x: layout.write(x)[None],
    )


FORMATS = (GoogleBert, OpenAiGpt2)
