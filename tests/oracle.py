"""The equations of the papers in float64 numpy, one query and one key at a time.

Every expected number of the tests comes from here. Weights arrive as a dict of arrays
by name, such as "query/kernel"; masks are bool `[B, T, S]`, True = visible.
"""

import numpy as np


def drawn(text):
    """A mask from a drawing: one line per row, `1` or `.` per key."""
    lines = [line.split() for line in text.strip().splitlines()]
    return np.array([[mark == "1" for mark in line] for line in lines])


def softmax_row(scores, visible):
    """Softmax over the visible keys; zeros if there is none."""
    weights = np.zeros(len(scores))
    if visible.any():
        powers = np.exp(scores[visible] - scores[visible].max())
        weights[visible] = powers / powers.sum()
    return weights


# Score functions of query [E], key [E'], index of the key, and weights.
def dot(q, k, s, w):
    """Luong 2015, equation 8."""
    return q @ k


def learned_scale(q, k, s, w):
    """`keras.layers.Attention(use_scale=True)`."""
    return w["score/scale"] * (q @ k)


def scaled_dot(q, k, s, w):
    """Vaswani 2017, equation 1."""
    return q @ k / np.sqrt(len(q))


def cosine(q, k, s, w):
    """Graves 2014, equation 6, times a learned factor."""
    return w["score/temperature"] * (q @ k) / (np.sqrt(q @ q) * np.sqrt(k @ k))


def general(q, k, s, w):
    """Luong 2015, equation 8."""
    return q @ (k @ w["score/key/kernel"])


def additive(q, k, s, w):
    """Bahdanau 2014, appendix A.1.2; v = g u/|u| of Salimans & Kingma 2016."""
    v = w["score/score_vector"]
    if "score/score_length" in w:
        v = w["score/score_length"] * v / np.sqrt(v @ v)
    bias = w.get("score/query/bias", 0.0)  # Luong's "concat" has none
    hidden = q @ w["score/query/kernel"] + k @ w["score/key/kernel"] + bias
    return v @ np.tanh(hidden)


def location(q, k, s, w):
    """Luong 2015, equation 9 (before the softmax)."""
    return (q @ w["score/position/kernel"])[s]


# The equation of each score, by the name that layers take as `score=`. A new score
# needs a line here. Those of SAME_SIZE multiply queries and keys as they are.
SCORES = {
    "additive": additive,
    "concat": additive,
    "dot": dot,
    "scaled_dot": scaled_dot,
    "cosine": cosine,
    "general": general,
    "location": location,
}
SAME_SIZE = {"dot", "scaled_dot", "cosine"}


def everywhere(q, key_mask, w):
    """Luong 2015, section 3.1."""
    return np.full(len(key_mask), True), np.ones(len(key_mask))


def local_p(window):
    """Luong 2015, equations 9 and 10; S counts the non-padding tokens."""

    def around(q, key_mask, w):
        hidden = np.tanh(q @ w["alignment/hidden/kernel"])
        share = 1 / (1 + np.exp(-hidden @ w["alignment/position/kernel"][:, 0]))
        distance = (np.cumsum(key_mask) - 1) - key_mask.sum() * share
        gauss = np.exp(-(distance**2) / (2 * (window / 2) ** 2))
        return abs(distance) <= window, gauss

    return around


def one_head(query, key, value, *, mask, key_mask, w, score, around=everywhere):
    """Contexts `[B, T, V]` and weights `[B, T, S]`; key_mask is bool `[B, S]`."""
    batch, length = query.shape[:2]
    weights, contexts = np.zeros(mask.shape), np.zeros((batch, length, value.shape[2]))
    for b in range(batch):
        for t in range(length):
            q, scores = query[b, t], np.zeros(mask.shape[2])
            window, factor = around(q, key_mask[b], w)
            visible = mask[b, t] & window
            for s in np.flatnonzero(visible):
                scores[s] = score(q, key[b, s], s, w)
            weights[b, t] = softmax_row(scores, visible) * factor
            contexts[b, t] = sum(weights[b, t, s] * v for s, v in enumerate(value[b]))
    return contexts, weights


def attentional(contexts, query, w):
    """Luong 2015, equation 5: tanh(W [c; h])."""
    both = np.concatenate([contexts, query], axis=-1)
    return np.tanh(both @ w["combine/kernel"])


def monotonic_step(p, previous):
    """Raffel 2017, equations 10 and 11: the alignment of one row."""
    alignment, q = np.zeros(len(p)), 0.0
    for j in range(len(p)):
        q = ((1 - p[j - 1]) * q if j else 0.0) + previous[j]
        alignment[j] = p[j] * q
    return alignment


class NoPositions:
    """A position scheme that does nothing; position_oracle.py has the others."""

    def rotate(self, x, position):
        return x

    def bias(self, q, n, heads, distance, w):
        return 0.0

    def value(self, distance, w):
        return 0.0


def projected(x, name, w):
    """x W_n + b_n for each head n: `[heads, B, T, H]`."""
    kernel = w[f"{name}/kernel"]  # [E, heads, H]
    bias = w.get(f"{name}/bias", np.zeros(kernel.shape[1:]))
    return np.stack([x @ kernel[:, n] + bias[n] for n in range(kernel.shape[1])])


def multi_head(query, key, value, mask, w, *, scheme=None, soft_cap=None):
    """Vaswani 2017, section 3.2.2; Ainslie 2023: head n shares key head n // G.

    Talking heads: Shazeer 2020, section 3.1. Gate: Qiu 2025, equation 5.
    """
    scheme = scheme or NoPositions()
    q, k, v = (
        projected(x, name, w)
        for x, name in ((query, "query"), (key, "key"), (value, "value"))
    )
    heads, batch, length, size = q.shape
    group = heads // len(k)
    mix_scores, mix_weights = (
        w.get(name, np.eye(heads)) for name in ("mix_scores", "mix_weights")
    )
    weights = np.zeros((batch, heads, *mask.shape[1:]))
    contexts = np.zeros((batch, length, heads, v.shape[-1]))
    for b, t in np.ndindex(batch, length):
        visible = np.flatnonzero(mask[b, t])
        scores = np.zeros((heads, mask.shape[2]))
        for n, s in np.ndindex(heads, mask.shape[2]):
            rotated = scheme.rotate(q[n, b, t], t)
            score = rotated @ scheme.rotate(k[n // group, b, s], s) / np.sqrt(size)
            capped = score if soft_cap is None else soft_cap * np.tanh(score / soft_cap)
            scores[n, s] = capped + scheme.bias(
                q[n, b, t] / np.sqrt(size), n, heads, s - t, w
            )
        scores = mix_scores.T @ scores
        rows = np.stack([softmax_row(row, mask[b, t]) for row in scores])
        weights[b, :, t] = (mix_weights.T @ rows) * mask[b, t]
        for n, s in ((n, s) for n in range(heads) for s in visible):
            vector = v[n // group, b, s] + scheme.value(s - t, w)
            contexts[b, t, n] += weights[b, n, t, s] * vector
    if "gate/kernel" in w:
        gate = projected(query, "gate", w).transpose(1, 2, 0, 3)
        contexts = contexts / (1 + np.exp(-gate))
    kernel = w["attention_output/kernel"]  # [heads, V, ...]
    output = np.tensordot(contexts, kernel, axes=2)
    return output + w.get("attention_output/bias", 0.0), weights
