"""The base of the position schemes that add to the scores."""

from keras import ops

from keras_attention.layers.position_scheme import PositionScheme
from keras_attention.ops.positions import standardize_positions


class PositionBias(PositionScheme):
    """Base of the schemes that add to the scores; a call returns that term."""

    def call(self, query, query_positions=None, key_positions=None):
        batch, length, heads, size = ops.shape(query)
        query_positions = standardize_positions(query_positions, length=length)
        if key_positions is None:
            key_positions = query_positions
        key_positions = standardize_positions(key_positions, length=None)
        query = ops.reshape(query, (batch, length, heads * size))  # [B, T, N * H]
        return self.bias(query, query_positions, key_positions)
