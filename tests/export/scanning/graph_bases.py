"""SavedModels that the fuzzer of graphs begins with: honest, or hostile in a corner."""

import tensorflow as tf

SECRET, OTHER = "client A: my secret", "client B"
FLOATS = [tf.TensorSpec([None, 3], tf.float32, name="x")]
TEXTS = [tf.TensorSpec([None], tf.string, name="texts")]


class Scale(tf.Module):
    """Weights, a branch and two kinds of loops."""

    def __init__(self):
        super().__init__()
        self.scale = tf.Variable([2.0, 3.0, 5.0])

    @tf.function(input_signature=FLOATS)
    def run(self, x):
        return {"y": x * self.scale}

    @tf.function(input_signature=FLOATS)
    def loop(self, x):
        rows = tf.map_fn(lambda row: row * self.scale, x)
        _, total = tf.while_loop(
            lambda i, _: i < 3, lambda i, s: (i + 1, s + rows), [0, rows]
        )
        branch = tf.cond(tf.reduce_sum(x) > 1.0, lambda: total, lambda: rows + 1.0)
        return {"y": branch}


class Words(tf.Module):
    """Texts, two tables, and an asset that nothing reads."""

    def __init__(self, asset):
        super().__init__()
        words = tf.constant(["client", "a:", "b", "my"])
        values = tf.lookup.KeyValueTensorInitializer(words, [3, 5, 7, 11])
        self.table = tf.lookup.StaticHashTable(values, -1)
        self.asset = tf.saved_model.Asset(asset)
        self.bias = tf.Variable([1, 2])

    @tf.function(input_signature=TEXTS)
    def run(self, texts):
        words = tf.strings.split(tf.strings.lower(texts)).to_tensor("")
        ids = self.table.lookup(words)
        return {"ids": ids + self.bias[0], "words": words}

    @tf.function(input_signature=TEXTS)
    def joined(self, texts):
        return {"text": tf.strings.join([texts, texts], " ")}


class Draws(tf.Module):
    """Random numbers, a sort and a matrix product."""

    def __init__(self):
        super().__init__()
        self.kernel = tf.Variable(tf.reshape(tf.range(15.0), [3, 5]))

    @tf.function(input_signature=FLOATS)
    def run(self, x):
        noise = tf.random.stateless_normal(tf.shape(x), [3, 5])
        return {"y": tf.sort((x + noise) @ self.kernel)}


class Keeps(tf.Module):
    """An honest signature, and a function that keeps its input, which nothing calls."""

    def __init__(self):
        super().__init__()
        self.kept = tf.Variable([b""], shape=[None], dtype=tf.string, trainable=False)
        self.count = tf.Variable(0)

    @tf.function(input_signature=TEXTS)
    def run(self, texts):
        before = self.kept.read_value()
        return {"y": tf.strings.join([texts, "!"]), "before": before}

    @tf.function(input_signature=TEXTS)
    def keep(self, texts):
        before = tf.identity(self.kept.read_value())
        with tf.control_dependencies([before]):
            self.kept.assign(texts)
            self.count.assign_add(1)
        return {"y": before, "before": texts}


def save_bases(folder):
    """Writes the bases; returns name to folder."""
    asset = folder / "words.txt"
    asset.write_text("client\n")
    scale, words, draws, keeps = Scale(), Words(str(asset)), Draws(), Keeps()
    bases = {
        "scale": (scale, {"s": scale.run}),
        "loop": (scale, {"s": scale.loop, "other": scale.run}),
        "words": (words, {"s": words.run, "joined": words.joined}),
        "draws": (draws, {"s": draws.run}),
        "keeps": (keeps, {"s": keeps.run}),
    }
    for name, (module, signatures) in bases.items():
        tf.saved_model.save(module, str(folder / name), signatures=signatures)
    return {name: folder / name for name in bases}
