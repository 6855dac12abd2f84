"""MultiHeadAttention compared with Keras', same weights, in a `tf.function`."""

from benchmarks.measure import Progress, Row, Settings, compare, take_turns

HEADS, WIDTH = 8, 256
CASES = {
    "padding": {},
    "padding, dropout=0.1 configured": {"dropout": 0.1},
    "padding, causal": {"use_causal_mask": True},
}


def run(settings: Settings, progress: Progress) -> list[Row]:
    rows = []
    for batch, length in ((8, 128), (1, 512)):
        for name, options in CASES.items():
            case = f"{batch} × {length}, {name}"
            progress(case)
            calls = _candidates(batch, length, **options)
            samples = take_turns(calls, settings, progress, rounds=2 * settings.rounds)
            rows.append(compare("layer", case, samples, *calls, target=1.0))
    return rows


def _candidates(batch, length, dropout=0.0, **call):
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_attention as ka

    keras.utils.set_random_seed(0)
    theirs = keras.layers.MultiHeadAttention(HEADS, WIDTH // HEADS, dropout=dropout)
    theirs.build((None, None, WIDTH), (None, None, WIDTH))
    ours = ka.MultiHeadAttention.from_keras(theirs)
    generator = np.random.default_rng(0)
    x = tf.constant(generator.normal(size=(batch, length, WIDTH)), "float32")
    lengths = np.linspace(length, length // 2, batch).astype(int)
    if batch == 1:
        lengths = np.array([length * 3 // 4])
    padding_mask = tf.constant(np.arange(length) < lengths[:, None])

    def compiled(layer):
        @tf.function(autograph=False)
        def function(x, mask):
            masks = {"query_mask": mask, "value_mask": mask}
            return layer(x, x, **masks, training=False, **call)

        return lambda: function(x, padding_mask).numpy()

    calls = {"ours": compiled(ours), "keras": compiled(theirs)}
    # Padding queries differ: docs/drop-in.md.
    results = [call()[padding_mask.numpy()] for call in calls.values()]
    np.testing.assert_allclose(*results, atol=1e-5)
    return calls
