"""The report of a training as a page that a browser shows, without any other file."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;
padding:0 1rem;color:#222}table{border-collapse:collapse}td,th{padding:.2rem .8rem;
border-bottom:1px solid #ddd;text-align:left}svg{width:100%;height:auto}"""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 800, 300, 60, 30


def report_page(report: Mapping[str, Any]) -> str:
    """Returns the report that `run_fine_tuning` returned as a page of HTML.

    Args:
        report: The report.
    """
    history = report["history"]
    names = list(history)
    epochs = [
        [str(number + 1), *(f"{history[name][number]:.4g}" for name in names)]
        for number in range(len(history["loss"]))
    ]
    examples = report["examples"]
    settings = {name: x for name, x in report["settings"].items() if x is not None}
    scores = [[name, f"{score:.4g}"] for name, score in report["scores"].items()]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><meta charset="utf-8">',
            f"<title>{_safe(report['task'])}</title><style>{_STYLE}</style>",
            f"<h1>{_safe(report['model'])}: {_safe(report['task'])}</h1>",
            f"<p>{examples['trained']} rows were trained on in {report['seconds']} "
            f"seconds, {examples['held_out']} were held out.</p>",
            "<h2>Scores of the held-out examples</h2>",
            _table(["score", "value"], scores),
            "<h2>Loss</h2>",
            _curve(report["curve"], history.get("val_loss", [])),
            _table(["epoch", *names], epochs),
            "<h2>Settings</h2>",
            _table(["setting", "value"], [[n, str(x)] for n, x in settings.items()]),
            "</html>\n",
        ]
    )


def _safe(text: Any) -> str:
    return html.escape(str(text))


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_safe(name)}</th>" for name in headings)
    cells = ("".join(f"<td>{_safe(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table><tr>{head}</tr>{body}</table>"


def _curve(points: Sequence[Sequence[float]], held_out: Sequence[float]) -> str:
    """Draws the loss by batch as a line, and that of the held-out examples as dots."""
    last = points[-1][0]
    dots = [((n + 1) * last / len(held_out), x) for n, x in enumerate(held_out)]
    most = max(y for _, y in [*points, *dots]) or 1.0

    def place(x, y):
        across = _LEFT + (_WIDTH - _LEFT) * x / last
        return across, (_HEIGHT - _BOTTOM) * (1 - 0.95 * y / most)

    line = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in points)
    found = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'aria-label="loss by batch" font-size="14">',
        f'<polyline fill="none" stroke="#1565c0" stroke-width="2" points="{line}"/>',
    ]
    for x, y in dots:
        across, down = place(x, y)
        found.append(
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="5" fill="#c62828"/>'
        )
    for value in (0.0, most / 2, most):
        _, down = place(0, value)
        found.append(
            f'<text x="{_LEFT - 8}" y="{down + 5:.1f}" text-anchor="end">'
            f'{value:.3g}</text><line x1="{_LEFT}" x2="{_WIDTH}" y1="{down:.1f}" '
            f'y2="{down:.1f}" stroke="#ddd"/>'
        )
    found.append(
        f'<text x="{_WIDTH}" y="{_HEIGHT - 5}" text-anchor="end">batch {last}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 5}">line: mean since the beginning of the '
        "epoch; dots: held-out examples</text></svg>"
    )
    return "".join(found)
