"""Text from an ONNX decoder, without TensorFlow: text_generation.py FOLDER PROMPT…

Needs numpy, onnxruntime and tokenizers. FOLDER is the ONNX artifact of a causal
language model: `decoder.onnx`, manifest.json, genai_config.json and tokenizer.json.
With one prompt, the text is printed as it is generated; several prompts are one batch,
printed as lines of JSON. A seed samples the same tokens as in `CausalLM.generate`.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx_client import Artifact

BLOCKED = np.float32(-1e30)


@dataclass(frozen=True)
class Choices:
    """How to generate; temperature 0 chooses the most likely token."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple = ()
    seed: int = 0


class TextGenerator:
    """A decoder with a cache, and its tokenizer."""

    def __init__(self, folder, tokenizer=None, threads=0):
        folder = Path(folder)
        self.decoder = Artifact(folder, "decoder", threads)
        sizes = {"batch": 1, "past": 0}
        self.past = {
            name: [sizes.get(axis, axis) for axis in info["shape"]]
            for name, info in self.decoder.signature["inputs"].items()
            if name.startswith("past_key_values.")
        }
        if not (folder / "genai_config.json").is_file():
            raise SystemExit(
                "Expected the artifact of a causal language model, which has a "
                f"genai_config.json. Received: {folder}"
            )
        config = json.loads((folder / "genai_config.json").read_text())["model"]
        ends = config["eos_token_id"]
        self.ends = {*ends} if isinstance(ends, list) else {ends}
        self.longest = config["context_length"]
        self.tokenizer = None
        path = Path(tokenizer or folder / "tokenizer.json")
        if tokenizer and not path.is_file():
            raise SystemExit(f"Expected a tokenizer.json. Received: {path}")
        if path.is_file():
            from tokenizers import Tokenizer

            self.tokenizer = Tokenizer.from_file(str(path))

    def tokens(self, prompts, choices=Choices()):
        """Yields the new ids of all rows after each step; prompts are lists of ids.

        A row that has ended stays as it is.
        """
        lengths = [len(prompt) for prompt in prompts]
        if not lengths or min(lengths) == 0:
            raise SystemExit(
                f"Expected prompts of 1 token or more. Received: {lengths}"
            )
        if max(lengths) + choices.max_new_tokens > self.longest:
            got = f"Received: {max(lengths)} and {choices.max_new_tokens} new"
            raise SystemExit(f"The model has {self.longest} positions. {got}")
        ids = np.zeros((len(prompts), max(lengths)), np.int64)
        mask = np.zeros_like(ids)
        for row, prompt in enumerate(prompts):  # padded on the left
            ids[row, -len(prompt) :], mask[row, -len(prompt) :] = prompt, 1
        past = {
            name: np.zeros((len(prompts), *shape[1:]), np.float32)
            for name, shape in self.past.items()
        }
        new, running = [[] for _ in prompts], np.ones(len(prompts), bool)
        seeds = _mixed(
            _mixed(np.int64(choices.seed)) + np.arange(len(prompts)) * GOLDEN
        )
        for step in range(choices.max_new_tokens):
            positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, -ids.shape[1] :]
            outputs = self.decoder(
                input_ids=ids, attention_mask=mask, position_ids=positions, **past
            )
            past = {
                name: outputs[name.replace("past_key_values", "present")]
                for name in past
            }
            known = [[*a, *b] for a, b in zip(prompts, new, strict=True)]
            logits = processed(outputs["logits"][:, -1], known, choices)
            chosen = logits.argmax(axis=-1)
            if choices.temperature:
                chosen = sampled(logits, seeds, step)
            for row, token in enumerate(chosen):
                if running[row]:
                    new[row].append(int(token))
                    running[row] = token not in self.ends and not self._stops(
                        new[row], choices.stop
                    )
            yield new
            if not running.any():
                return
            ids = chosen[:, None].astype(np.int64)
            mask = np.concatenate([mask, running[:, None].astype(np.int64)], axis=1)

    def texts(self, prompts, choices=Choices()):
        """Returns the continuations of texts."""
        new = [[] for _ in prompts]
        for new in self.tokens(self.encode(prompts), choices):  # noqa: B007
            pass
        return [self.decode(ids) for ids in new]

    def stream(self, prompt, choices=Choices()):
        """Yields the continuation of one text in pieces of whole characters."""
        given, text = 0, ""
        for (ids,) in self.tokens(self.encode([prompt]), choices):
            text = self.decode(ids)
            whole = len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
            if whole > given:
                yield text[given:whole]
                given = whole
        if len(text) > given:
            yield text[given:]

    def encode(self, texts):
        if self.tokenizer is None:
            raise SystemExit("Expected a tokenizer.json in the folder, or --tokenizer.")
        return [one.ids for one in self.tokenizer.encode_batch(list(texts))]

    def decode(self, ids):
        return self.tokenizer.decode(ids)

    def _stops(self, ids, strings):
        return bool(strings) and any(one in self.decode(ids) for one in strings)


def processed(logits, known, choices):
    """Applies the penalty to logits `[B, V]`, and the filters if tokens are sampled."""
    logits = logits.astype(np.float32)
    if choices.repetition_penalty != 1:
        for row, tokens in zip(logits, known, strict=True):
            ids = np.unique(tokens)
            old, penalty = row[ids], np.float32(choices.repetition_penalty)
            row[ids] = np.where(old < 0, old * penalty, old / penalty)
    if not choices.temperature:
        return logits
    logits = logits / np.float32(choices.temperature)
    size = logits.shape[-1]
    if choices.top_k:
        least = np.sort(logits, axis=-1)[:, [-min(choices.top_k, size)]]
        logits = np.where(logits < least, BLOCKED, logits)
    if choices.top_p < 1:
        ascending = np.sort(logits, axis=-1)
        sums = np.cumsum(np.exp(log_softmax(ascending)), axis=-1)
        removed = (sums <= 1 - choices.top_p).sum(axis=-1, keepdims=True)
        least = np.take_along_axis(ascending, np.minimum(removed, size - 1), axis=-1)
        logits = np.where(logits < least, BLOCKED, logits)
    if choices.min_p:
        weights = np.exp(log_softmax(logits))
        cut = weights < choices.min_p * weights.max(axis=-1, keepdims=True)
        logits = np.where(cut, BLOCKED, logits)
    return logits


def log_softmax(logits):
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


GOLDEN = -1640531527


def sampled(logits, seeds, step):
    """Samples one token per row, by the largest of logits plus Gumbel noise."""
    key = _mixed(seeds + _mixed(step * GOLDEN + 1))
    column = _mixed(np.arange(logits.shape[-1]) * GOLDEN + 7)
    bits = _mixed(_mixed(column[None] + key[:, None]) ^ _mixed(key + 3)[:, None])
    uniform = ((bits & 0x7FFFFFFF).astype(np.float32) + np.float32(0.5)) * 2.0**-31
    uniform = np.minimum(uniform, np.float32(1 - 2.0**-24))
    return (log_softmax(logits) - np.log(-np.log1p(-uniform))).argmax(axis=-1)


def _mixed(x):
    """Mixes 32 bits in int64, as the last rounds of MurmurHash3 do."""
    x = np.asarray(x, np.int64) & 0xFFFFFFFF
    x ^= x >> 16
    x = (x.astype(np.uint64) * np.uint64(0x85EBCA6B)).astype(np.int64) & 0xFFFFFFFF
    x ^= x >> 13
    x = (x.astype(np.uint64) * np.uint64(0xC2B2AE35)).astype(np.int64) & 0xFFFFFFFF
    return x ^ (x >> 16)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--tokenizer", help="default: the folder's tokenizer.json")
    plain = Choices()
    for name in ("max_new_tokens", "top_k", "seed"):
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, default=getattr(plain, name))
    for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=float, default=getattr(plain, name))
    parser.add_argument("--stop", action="append", default=[])
    given = vars(parser.parse_args())
    prompts = given.pop("prompts")
    generator = TextGenerator(given.pop("folder"), given.pop("tokenizer"))
    choices = Choices(**{**given, "stop": tuple(given["stop"])})
    if len(prompts) == 1:
        for piece in generator.stream(prompts[0], choices):
            print(piece, end="", flush=True)
        print()
        return
    for text in generator.texts(prompts, choices):
        print(json.dumps(text, ensure_ascii=False))


if __name__ == "__main__":
    main()
