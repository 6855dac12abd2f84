"""A tokenizer for tests: one token per byte."""

import numpy as np


class Bytes:
    """UTF-8 bytes; padded on the right, without an end token."""

    def __call__(self, texts):
        rows = [list(text.encode()) for text in texts]
        width = max(map(len, rows))
        ids = np.array([row + [0] * (width - len(row)) for row in rows], "int32")
        mask = np.array([[i < len(row) for i in range(width)] for row in rows])
        return {"token_ids": ids, "padding_mask": mask}

    def detokenize(self, ids):
        return [bytes(row.tolist()).decode(errors="replace") for row in np.asarray(ids)]
