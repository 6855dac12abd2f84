"""How positions enter multi-head attention, one pair of query and key at a time."""

import numpy as np
from oracle import NoPositions


class Rotary(NoPositions):
    """Su 2021, equation 34; `pairs` says which two features turn together."""

    def __init__(self, pairs, wavelength=10000.0):
        self.pairs, self.wavelength = pairs, wavelength

    def rotate(self, x, position):
        turned = x.copy()
        for i, (a, b) in enumerate(self.pairs):
            angle = position * self.wavelength ** (-i / len(self.pairs))
            turned[a] = x[a] * np.cos(angle) - x[b] * np.sin(angle)
            turned[b] = x[a] * np.sin(angle) + x[b] * np.cos(angle)
        return turned


class Alibi(NoPositions):
    """Press 2021, section 3, for a number of heads that is a power of 2."""

    def bias(self, q, n, heads, distance, w):
        return -(2.0 ** (-8 * (n + 1) / heads)) * abs(distance)


class Buckets(NoPositions):
    """Raffel 2019, section 2.1: near distances exactly, far ones by logarithm."""

    def __init__(self, buckets, max_distance):
        self.buckets, self.max_distance = buckets, max_distance

    def bias(self, q, n, heads, distance, w):
        half = self.buckets // 2  # for keys behind; the others are for keys ahead
        exact, far = half // 2, abs(distance)
        bucket = far
        if far >= exact:
            share = np.log(far / exact) / np.log(self.max_distance / exact)
            bucket = min(exact + int(share * (half - exact)), half - 1)
        bucket += half if distance > 0 else 0
        return w["position/embeddings"][bucket, n]


class Shaw(NoPositions):
    """Shaw 2018, equations 3 to 5."""

    def __init__(self, reach):
        self.reach = reach

    def row(self, name, distance, w):
        table = w[f"position/{name}_embeddings"]
        return table[np.clip(distance, -self.reach, self.reach) + self.reach]

    def bias(self, q, n, heads, distance, w):
        return q @ self.row("key", distance, w)

    def value(self, distance, w):
        return self.row("value", distance, w)
