"""Attention maps as pictures."""

import numpy as np
import pytest

import keras_attention as ka

pytest.importorskip("matplotlib")


def test_tokens_with_dollar_signs_are_shown_as_text(tmp_path):
    tokens = ["$5", "$\\frac$", "a$_{$b"]
    maps = np.full((2, 3, 3), 1 / 3)
    path = tmp_path / "maps.png"
    figure = ka.plot_attention(maps, tokens, titles=["$^$", "b"], path=path)
    axis = figure.axes[0]
    for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
        assert [label.get_text() for label in labels] == tokens
    assert path.stat().st_size > 1000


def test_all_maps_have_one_scale_which_the_bar_shows():
    maps = np.array([[[0.1, 0.2]], [[0.8, 0.4]]])
    figure = ka.plot_attention(
        maps, ["q"], ["a", "b"], titles=["1", "2"], title="block_0/$attention"
    )
    *heads, bar = figure.axes
    assert len(heads) == 2
    assert {axis.images[0].get_clim() for axis in heads} == {(0.0, 0.8)}
    assert bar.get_ylabel() == "weight"
    assert figure.get_suptitle() == "block_0/$attention"
    figure.canvas.draw()  # "$" begins no formula
    zeros = ka.plot_attention(np.zeros((1, 2)), ["q"], ["a", "b"])
    assert zeros.axes[0].images[0].get_clim() == (0.0, 1.0)
