"""Signatures that take text: the tokenizer in front of a signature that takes ids."""

from typing import Any

from keras_attention.export.signatures.signature import Signature, Steps, TensorInfo

TEXT = TensorInfo("string", ("batch",))
TOKENS = ("token_ids", "padding_mask")
OFFSETS = ("starts", "ends")


def from_text(
    name: str,
    ids: Signature,
    tokenizer: Any,
    *,
    pairs: bool = False,
    tokens: bool = True,
    offsets: bool = False,
) -> Signature:
    """Returns a signature that takes texts instead of ids.

    Args:
        name: The new signature's name.
        ids: The signature that takes ids.
        tokenizer: The model's tokenizer.
        pairs: Whether a row has two texts, `text` and `text_pair`.
        tokens: Whether the ids and the padding mask are outputs too; for signatures
            with one output per token.
        offsets: Whether the tokens' places in the text are outputs too: `starts` and
            `ends`, in characters.
    """
    model_inputs = [name for name in ids.inputs if pairs or name != "segment_ids"]
    token_outputs = (TOKENS if tokens else ()) + (OFFSETS if offsets else ())
    encode = tokenizer.encode_with_offsets if offsets else tokenizer

    def before(text, text_pair=None):
        row = encode(text, text_pair)
        fed = {name: row[name] for name in model_inputs if name in row}
        return fed, {name: row[name] for name in token_outputs}

    def after(answers, row):
        return {**answers, **row}

    sequence = ids.inputs["token_ids"].shape
    outputs = dict(ids.outputs)
    for output in token_outputs:
        outputs[output] = ids.inputs.get(output, TensorInfo("int32", sequence))
    return Signature(
        name,
        Steps(before, ids.function, after, ids.inputs, ids.outputs),
        {"text": TEXT, "text_pair": TEXT} if pairs else {"text": TEXT},
        outputs,
        exact_zeros=ids.exact_zeros,
    )
