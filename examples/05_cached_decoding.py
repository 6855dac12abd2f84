"""Decoding with a cache: one token at a time, with the logits of the whole sequence.

A GPT-2 shaped decoder reads two prompts of different lengths (the shorter one padded on
the left), then generates one token at a time. The cache is a value: it is passed in and
returned longer. Rows of different lengths and padding need no special code.

Expected: the logits of every step equal those computed again for the whole sequence.
The weights are random: this shows the numbers, not the text. 15 seconds on two cores.
"""

import _shared
import keras
import numpy as np

import keras_attention as ka


def main():
    parser = _shared.parser(__doc__)
    parser.add_argument("--steps", type=int, default=24, help="tokens to write (24)")
    options = parser.parse_args()
    keras.utils.set_random_seed(1)
    decoder = ka.GPTDecoder(
        vocabulary_size=1000,
        num_layers=4,
        num_heads=8,
        num_key_value_heads=2,  # grouped: a cache of a quarter of the size
        hidden_dim=256,
        intermediate_dim=1024,
    )
    ids = np.array([[11, 12, 13, 14, 15], [0, 0, 21, 22, 23]], "int32")
    mask = ids > 0

    inputs = {"token_ids": ids, "padding_mask": mask}
    outputs = decoder(inputs, cache=decoder.empty_cache(batch_size=2))
    steps = []
    for _ in range(options.steps):
        steps.append(np.asarray(outputs["logits"])[:, -1:])
        token = steps[-1].argmax(axis=-1).astype("int32")
        ids = np.concatenate([ids, token], axis=1)
        outputs = decoder(token, cache=outputs["cache"])

    mask = np.pad(mask, [(0, 0), (0, options.steps)], constant_values=True)
    worst, read = 0.0, 0
    for step, logits in enumerate(steps):
        end = 5 + step
        whole = {"token_ids": ids[:, :end], "padding_mask": mask[:, :end]}
        expected = np.asarray(decoder(whole)["logits"])[:, -1:]
        read += end
        worst = max(worst, float(np.abs(expected - logits).max()))

    past = outputs["cache"][0]
    print(f"{options.steps} tokens for each of 2 prompts, of 5 and of 3 tokens")
    print(f"tokens read: {5 + options.steps} with the cache, {read} without")
    print(f"largest difference of any logit below 1e-5: {worst < 1e-5}")
    print("positions of the first keys:", np.asarray(past.positions)[:, :6].tolist())


if __name__ == "__main__":
    main()
