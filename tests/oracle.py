"""The equations of the papers in float64 numpy, one query and one key at a time.

Every expected number of the tests comes from here. Weights arrive as a dict of arrays
by name, "query/kernel" for example; masks as bool `[B, T, S]`, True = may look.
"""

import numpy as np


def drawn(text):
    """A mask from a drawing: one line a row, `1` or `.` a key."""
    lines = [line.split() for line in text.strip().splitlines()]
    return np.array([[mark == "1" for mark in line] for line in lines])


def softmax_row(scores, seen):
    """Softmax over the seen keys; zeros if there is none."""
    weights = np.zeros(len(scores))
    if seen.any():
        powers = np.exp(scores[seen] - scores[seen].max())
        weights[seen] = powers / powers.sum()
    return weights


# Score functions: query [E], key [E'], index of the key, weights.
def dot(q, k, s, w):
    """Luong 2015, equation 8."""
    return q @ k


def scaled_dot(q, k, s, w):
    """Vaswani 2017, equation 1."""
    return q @ k / np.sqrt(len(q))


def cosine(q, k, s, w):
    """Graves 2014, equation 6, times a learned strength."""
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


def everywhere(q, keep, w):
    """Luong 2015, section 3.1."""
    return np.full(len(keep), True), np.ones(len(keep))


def local_p(window):
    """Luong 2015, equations 9 and 10; S counts the real tokens."""

    def around(q, keep, w):
        hidden = np.tanh(q @ w["alignment/hidden/kernel"])
        share = 1 / (1 + np.exp(-hidden @ w["alignment/position/kernel"][:, 0]))
        distance = (np.cumsum(keep) - 1) - keep.sum() * share
        gauss = np.exp(-(distance**2) / (2 * (window / 2) ** 2))
        return abs(distance) <= window, gauss

    return around


def one_head(query, key, value, *, mask, keep, w, score, around=everywhere):
    """Contexts `[B, T, V]` and weights `[B, T, S]`; keep: bool `[B, S]`."""
    batch, length = query.shape[:2]
    weights, contexts = np.zeros(mask.shape), np.zeros((batch, length, value.shape[2]))
    for b in range(batch):
        for t in range(length):
            q, scores = query[b, t], np.zeros(mask.shape[2])
            window, factor = around(q, keep[b], w)
            seen = mask[b, t] & window
            for s in np.flatnonzero(seen):
                scores[s] = score(q, key[b, s], s, w)
            weights[b, t] = softmax_row(scores, seen) * factor
            contexts[b, t] = sum(weights[b, t, s] * v for s, v in enumerate(value[b]))
    return contexts, weights


def attentional(contexts, query, w):
    """Luong 2015, equation 5: tanh(W [c; h])."""
    both = np.concatenate([contexts, query], axis=-1)
    return np.tanh(both @ w["combine/kernel"])


def multi_head(query, key, value, mask, w):
    """Vaswani 2017, section 3.2.2; Ainslie 2023: head n shares key head n // G."""
    heads, groups = w["query/kernel"].shape[1], w["key/kernel"].shape[1]
    output, weights = 0.0, []
    for n in range(heads):
        g = n // (heads // groups)
        q = query @ w["query/kernel"][:, n] + w.get("query/bias", np.zeros(heads))[n]
        k = key @ w["key/kernel"][:, g] + w.get("key/bias", np.zeros(groups))[g]
        v = value @ w["value/kernel"][:, g] + w.get("value/bias", np.zeros(groups))[g]
        context, a = one_head(
            q, k, v, mask=mask, keep=mask.any(1), w=w, score=scaled_dot
        )
        output = output + context @ w["attention_output/kernel"][n]
        weights.append(a)
    return output + w.get("attention_output/bias", 0.0), np.stack(weights, axis=1)
