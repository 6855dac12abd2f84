"""Signatures that take text: the tokenizer in front of a signature that takes ids."""

from typing import Any

from keras_attention.export.signatures.signature import Signature, Steps, TensorInfo

TEXT = TensorInfo("string", ("batch",))
OF_TOKENS = ("token_ids", "padding_mask")
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
    """The same job from raw strings.

    Args:
        name: Of the new signature.
        ids: The signature that takes ids.
        tokenizer: Of the model.
        pairs: Whether a row is two texts, `text` and `text_pair`.
        tokens: Whether the ids are outputs too, where outputs are per token.
        offsets: Whether their places in the text are, `starts` and `ends` in
            characters.
    """
    takes = [one for one in ids.inputs if pairs or one != "segment_ids"]
    told = (OF_TOKENS if tokens else ()) + (OFFSETS if offsets else ())
    read = tokenizer.encode_with_offsets if offsets else tokenizer

    def before(text, text_pair=None):
        row = read(text, text_pair)
        given = {one: row[one] for one in takes if one in row}
        return given, {one: row[one] for one in told}

    def after(answers, row):
        return {**answers, **row}

    sequence = ids.inputs["token_ids"].shape
    outputs = dict(ids.outputs)
    for one in told:
        outputs[one] = ids.inputs.get(one, TensorInfo("int32", sequence))
    return Signature(
        name,
        Steps(before, ids.function, after, ids.inputs, ids.outputs),
        {"text": TEXT, "text_pair": TEXT} if pairs else {"text": TEXT},
        outputs,
        exact_zeros=ids.exact_zeros,
    )
