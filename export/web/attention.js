/**
 * Runs an ONNX artifact in the browser, and draws its attention weights.
 *
 *     const artifact = await openArtifact("artifact");
 *     const outputs = await artifact.ask("attention", {
 *       token_ids: [[2, 31, 17, 0]],
 *       segment_ids: [[0, 0, 0, 0]],
 *       padding_mask: [[true, true, true, false]],
 *     });
 *     drawWeights(canvas, outputs.block_0_attention);
 */

import * as ort from "onnxruntime-web";

// More threads need a cross-origin isolated page: the headers COOP and COEP.
ort.env.wasm.numThreads = 1;

const MANIFEST_VERSION = 1;
const LEAST = { int32: -(2 ** 31), int64: Number.MIN_SAFE_INTEGER };
const MOST = { int32: 2 ** 31 - 1, int64: Number.MAX_SAFE_INTEGER };
const ARRAYS = {
  bool: (values) => Uint8Array.from(values),
  int32: (values) => Int32Array.from(values),
  int64: (values) => BigInt64Array.from(values, BigInt),
  float32: (values) => Float32Array.from(values),
};

/** Opens the folder at a URL: the manifest now, each ONNX file when it is run. */
export async function openArtifact(folder) {
  const base = new URL(`${folder.replace(/\/+$/, "")}/`, document.baseURI);
  const manifest = JSON.parse(
    new TextDecoder().decode(await download(new URL("manifest.json", base))),
  );
  if (manifest.manifest_version !== MANIFEST_VERSION || manifest.format !== "onnx") {
    throw new Error(
      `This page reads manifests of version ${MANIFEST_VERSION} of ONNX artifacts. ` +
        "Export with --format onnx. Received: " +
        `version ${manifest.manifest_version}, format ${manifest.format}`,
    );
  }
  return new Artifact(base, manifest);
}

class Artifact {
  #base;
  #files;
  #sessions = new Map();

  constructor(base, manifest) {
    this.#base = base;
    this.#files = manifest.files;
    this.signatures = manifest.signatures;
  }

  /** Runs a signature: nested arrays by name -> tensors (`type`, `dims`, `data`). */
  async ask(name, inputs) {
    const signature = this.signatures[name];
    if (!signature) {
      const known = Object.keys(this.signatures).join(", ");
      throw new Error(`Expected a signature of: ${known}. Received: ${name}`);
    }
    const feeds = tensorsOf(signature, inputs);
    if (!this.#sessions.has(name)) {
      this.#sessions.set(name, await this.#open(`${name}.onnx`));
    }
    return this.#sessions.get(name).run(feeds);
  }

  async #open(file) {
    const bytes = await download(new URL(file, this.#base));
    // Browsers cache files: an old file with a new manifest is detected here. Pages
    // that are neither https nor localhost have no `crypto.subtle`.
    if (globalThis.crypto.subtle) {
      const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
      const hex = Array.from(hash, (x) => x.toString(16).padStart(2, "0")).join("");
      if (hex !== this.#files[file]?.sha256) {
        throw new Error(
          `${file} is not the file that was exported. Expected the sha256 of ` +
            `manifest.json: copy the whole folder again. Received: ${hex}`,
        );
      }
    }
    // Errors only: ONNX infers the length 0 for the weights of an `Attention` whose
    // lengths are free, so the runtime warns in every run that they are longer.
    const settings = { executionProviders: ["wasm"], logSeverityLevel: 3 };
    return ort.InferenceSession.create(bytes, settings);
  }
}

async function download(url) {
  const answer = await fetch(url, { cache: "no-cache" });
  if (!answer.ok) {
    throw new Error(
      "A file of the artifact is missing. Expected the folder that export --format " +
        `onnx wrote, next to this page. Received: ${answer.status} for ${url}`,
    );
  }
  return new Uint8Array(await answer.arrayBuffer());
}

/** Checks inputs against the manifest: ONNX cannot refuse ids or long sequences. */
function tensorsOf(signature, inputs) {
  const expected = Object.keys(signature.inputs);
  const names = Object.keys(Object(inputs));
  if (names.length !== expected.length || !expected.every((x) => names.includes(x))) {
    throw new Error(`Expected the inputs ${expected}. Received: ${names}`);
  }
  const sizes = {};
  const tensors = {};
  for (const [name, { dtype, shape }] of Object.entries(signature.inputs)) {
    const dims = shapeOf(inputs[name]);
    const values = flatten(name, inputs[name], dims);
    checkShape(name, shape, dims, sizes, signature.max_lengths);
    checkValues(name, dtype, values, signature.limits[name]);
    tensors[name] = new ort.Tensor(dtype, ARRAYS[dtype](values), dims);
  }
  return tensors;
}

function shapeOf(value) {
  const dims = [];
  for (; Array.isArray(value); value = value[0]) dims.push(value.length);
  return dims;
}

function flatten(name, value, dims, depth = 0) {
  if (Array.isArray(value) ? value.length !== dims[depth] : depth !== dims.length) {
    throw new Error(
      `Expected rows of one length in ${name}: pad them, and mark the padding in the ` +
        `mask. Received: ${JSON.stringify(value)} where shape ${dims} begins`,
    );
  }
  if (!Array.isArray(value)) return [value];
  return value.flatMap((part) => flatten(name, part, dims, depth + 1));
}

function checkShape(name, shape, dims, sizes, longest) {
  const fits =
    dims.length === shape.length &&
    shape.every((axis, i) => {
      if (typeof axis === "number") return dims[i] === axis;
      sizes[axis] ??= dims[i];
      return dims[i] === sizes[axis] && dims[i] <= (longest[axis] ?? Infinity);
    });
  if (!fits) {
    const most = Object.entries(longest).map(([axis, size]) => `, ${axis} <= ${size}`);
    throw new Error(
      `Expected ${name} of shape [${shape.join(", ")}]${most.join("")}, and one size ` +
        `per axis in all inputs. Received: [${dims.join(", ")}]`,
    );
  }
}

function checkValues(name, dtype, values, limit) {
  if (!(dtype in ARRAYS)) {
    const known = Object.keys(ARRAYS).join(", ");
    throw new Error(`This page feeds ${known}. Received: ${name} of ${dtype}`);
  }
  const least = limit === undefined ? LEAST[dtype] : 0;
  const most = limit === undefined ? MOST[dtype] : limit - 1;
  const isRight = {
    bool: (x) => typeof x === "boolean" || x === 0 || x === 1,
    float32: (x) => typeof x === "number",
  };
  const isInteger = (x) => Number.isInteger(x) && x >= least && x <= most;
  const wrong = values.find((x) => !(isRight[dtype] ?? isInteger)(x));
  if (wrong !== undefined) {
    const range = dtype in isRight ? dtype : `integers from ${least} to ${most}`;
    throw new Error(`Expected ${name}: ${range}. Received: ${JSON.stringify(wrong)}`);
  }
}

/** The outputs that are attention weights: [batch, heads, queries, keys]. */
export function weightsOf(signature) {
  return Object.entries(signature.outputs)
    .filter(([, { shape }]) => shape.length === 4 && typeof shape[3] === "string")
    .map(([name]) => name);
}

/** Converts a tensor to nested arrays. */
export function nested({ dims, data }) {
  let parts = Array.from(data, Number);
  for (const size of dims.slice(1).reverse()) {
    const count = parts.length / size;
    const flat = parts;
    parts = Array.from({ length: count }, (_, i) =>
      flat.slice(i * size, (i + 1) * size),
    );
  }
  return parts;
}

export const MARGIN = 48;

/** Returns the width of a square of the heat map. */
export function cellSize(count) {
  return Math.max(4, Math.min(32, Math.floor(576 / count)));
}

// The colour of the smallest weight, and of the largest.
const LIGHT = [
  [235, 243, 252],
  [8, 48, 107],
];
const DARK = [
  [22, 42, 70],
  [173, 216, 255],
];

function sizeOf({ dims: [, , queries, keys] }) {
  const cell = cellSize(Math.max(queries, keys));
  return { cell, width: MARGIN + keys * cell, height: MARGIN + queries * cell };
}

function isDark() {
  return globalThis.matchMedia?.("(prefers-color-scheme: dark)").matches ?? false;
}

/**
 * Draws the weights of one head: one row per query, one column per key. Weights of
 * exactly 0 are not painted; the others go from pale blue to dark blue, the largest, or
 * from dark to pale on a dark page. The canvas has as many pixels as the screen.
 */
export function drawWeights(canvas, weights, { row = 0, head = 0, labels = [] } = {}) {
  const [, heads, queries, keys] = weights.dims;
  const start = (row * heads + head) * queries * keys;
  const values = weights.data.subarray(start, start + queries * keys);
  const largest = values.reduce((a, b) => Math.max(a, b), 0);
  const { cell, width, height } = sizeOf(weights);
  const ratio = globalThis.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const [least, most] = isDark() ? DARK : LIGHT;
  values.forEach((weight, i) => {
    if (weight === 0) return;
    const part = weight / largest;
    const parts = least.map((from, i) => from + (most[i] - from) * part);
    pen.fillStyle = `rgb(${parts.join(", ")})`;
    const [x, y] = [i % keys, Math.floor(i / keys)];
    pen.fillRect(MARGIN + x * cell, MARGIN + y * cell, cell, cell);
  });
  if (cell < 12) return;
  pen.fillStyle = getComputedStyle(canvas).color;
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  labels.forEach((label, i) => {
    const middle = MARGIN + (i + 0.5) * cell;
    pen.textAlign = "right";
    pen.fillText(label, MARGIN - 6, middle);
    pen.save();
    pen.translate(middle, MARGIN - 6);
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "left";
    pen.fillText(label, 0, 0);
    pen.restore();
  });
}

/**
 * Returns what is drawn at a place of the canvas, in CSS pixels from its corner:
 * `{ query, key, weight }`, or `null` beside the map. The page may show the canvas
 * smaller than it was drawn.
 */
export function weightAt(canvas, weights, x, y, { row = 0, head = 0 } = {}) {
  const [, heads, queries, keys] = weights.dims;
  const { cell, width } = sizeOf(weights);
  const scale = width / canvas.clientWidth;
  const [key, query] = [x, y].map((at) => Math.floor((at * scale - MARGIN) / cell));
  if (key < 0 || query < 0 || key >= keys || query >= queries) return null;
  const weight = weights.data[((row * heads + head) * queries + query) * keys + key];
  return { query, key, weight };
}
