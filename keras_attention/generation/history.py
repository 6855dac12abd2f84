"""The tokens so far, as processors receive them: without padding in between."""

from typing import Any, NamedTuple

from keras import ops

from keras_attention.ops.positions import EMPTY, first_positions, positions_of_tokens


class History(NamedTuple):
    """The tokens of each row, aligned left and without padding between them.

    Shapes do not change while a row grows, so that nothing is compiled twice.

    Attributes:
        token_ids: Int32 `[B, L]`; values after the end of a row have no meaning.
        lengths: Int32 `[B]`, the number of tokens of each row, with the prompt.
        prompt_lengths: Int32 `[B]`, the number of tokens of each prompt.
        max_new_tokens: Int32 scalar, the number of new tokens after which a row ends.
    """

    token_ids: Any
    lengths: Any
    prompt_lengths: Any
    max_new_tokens: Any

    @property
    def padding_mask(self) -> Any:
        """Bool `[B, L]`, `True` at tokens."""
        columns = first_positions(ops.shape(self.token_ids)[1])
        return columns[None] < self.lengths[:, None]

    @property
    def num_new_tokens(self) -> Any:
        """The number of tokens after the prompt, int32 `[B]`."""
        return self.lengths - self.prompt_lengths

    def rows(self, rows: Any) -> "History":
        """Returns the history of the rows with these indices, int `[B']`."""
        return History(
            ops.take(self.token_ids, rows, axis=0),
            ops.take(self.lengths, rows, axis=0),
            ops.take(self.prompt_lengths, rows, axis=0),
            self.max_new_tokens,
        )

    def before_end(self, distance: int) -> Any:
        """Returns the token at a `distance` of 1 or more from the end, or -1."""
        return at(self.token_ids, self.lengths - distance)

    def new_token(self, number: int) -> Any:
        """Returns the new token `number` of each row, from 0; -1 if there is none."""
        column = self.prompt_lengths + number
        return at(self.token_ids, ops.where(column < self.lengths, column, EMPTY))


def history_of(
    token_ids: Any,
    padding_mask: Any = None,
    *,
    prompt_lengths: Any = None,
    max_new_tokens: int = 2**30,
) -> History:
    """Makes a history of ids that may be padded on either side.

    Args:
        token_ids: Int `[B, L]`.
        padding_mask: Bool `[B, L]`, `True` at tokens.
        prompt_lengths: Int `[B]`; by default all tokens are the prompt's.
        max_new_tokens: The number of new tokens after which a row ends.
    """
    token_ids = ops.cast(ops.convert_to_tensor(token_ids), "int32")
    if padding_mask is None:
        padding_mask = ops.ones_like(token_ids, dtype="bool")
    padding_mask = ops.cast(ops.convert_to_tensor(padding_mask), "bool")
    lengths = ops.sum(ops.cast(padding_mask, "int32"), axis=-1)
    if prompt_lengths is None:
        prompt_lengths = lengths
    return History(
        packed(token_ids, padding_mask),
        lengths,
        ops.cast(ops.convert_to_tensor(prompt_lengths), "int32"),
        ops.convert_to_tensor(max_new_tokens, dtype="int32"),
    )


def packed(token_ids: Any, padding_mask: Any) -> Any:
    """Returns ids `[B, L]` with the tokens moved to the left and padding after them."""
    length = ops.shape(token_ids)[1]
    ranks = positions_of_tokens(padding_mask)
    order = ops.where(ranks >= 0, ranks, length + first_positions(length)[None])
    order = ops.cast(ops.argsort(order, axis=-1), "int32")
    return ops.take_along_axis(token_ids, order, axis=1)


def at(token_ids: Any, columns: Any) -> Any:
    """Returns `token_ids[b, columns[b]]`, `[B]`; -1 where the column is negative."""
    found = ops.take_along_axis(token_ids, ops.maximum(columns, 0)[:, None], axis=1)
    return ops.where(columns >= 0, found[:, 0], EMPTY)
