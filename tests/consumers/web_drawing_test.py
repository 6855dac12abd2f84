"""What export/web draws, without a browser: pixels, colours, the number at a place."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

MODULE = Path(__file__).parents[2] / "export" / "web" / "attention.js"
DRIVER = Path(__file__).with_name("draw_weights.mjs")
# One row, two heads, two queries, three keys: what the second head attends to.
DIMS, DATA = [1, 2, 2, 3], [9.0] * 6 + [0.5, 0.0, 0.25, 1.0, 0.75, 0.0]
CELL, MARGIN = 32, 48
WIDTH = MARGIN + 3 * CELL


def draw(ratio=1, dark=False, clientWidth=WIDTH, points=()):
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    task = {"module": MODULE.as_uri(), "ratio": ratio, "dark": dark}
    task |= {"dims": DIMS, "data": DATA, "clientWidth": clientWidth}
    done = subprocess.run(
        [node, DRIVER],
        input=json.dumps({**task, "points": points}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_canvas_has_as_many_pixels_as_the_screen():
    for ratio in (1, 2, 1.5):
        said = draw(ratio)
        assert said["width"] == WIDTH * ratio
        assert said["height"] == (MARGIN + 2 * CELL) * ratio
        assert (said["style"], said["scaled"]) == ({"width": f"{WIDTH}px"}, ratio)


def test_a_weight_of_zero_is_not_painted_and_the_largest_is_the_strongest():
    light, dark = draw(), draw(dark=True)
    places = [
        ((x - MARGIN) / CELL, (y - MARGIN) / CELL) for _, x, y, *_ in light["painted"]
    ]
    assert places == [(0, 0), (2, 0), (0, 1), (1, 1)]
    assert light["painted"][2][0] == "rgb(8, 48, 107)"
    assert dark["painted"][2][0] == "rgb(173, 216, 255)"
    assert light["painted"][0][0] == "rgb(121.5, 145.5, 179.5)"  # half of the largest


def test_the_number_at_a_place_is_that_of_the_cell_where_the_map_is_shown_smaller():
    middle = [[MARGIN + 0.5 * CELL, MARGIN + 1.5 * CELL], [10, 10], [WIDTH + 5, 60]]
    there = [{"query": 1, "key": 0, "weight": 1}, None, None]
    assert draw(points=middle)["found"] == there
    half = [[x / 2, y / 2] for x, y in middle]
    assert draw(points=half, clientWidth=WIDTH / 2)["found"] == there
