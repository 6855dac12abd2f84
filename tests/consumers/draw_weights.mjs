/**
 * Draws with export/web/attention.js on a canvas that only records, and prints what it
 * was told. Reads JSON: `module` (a URL), `ratio`, `dark`, `dims`, `data`, `clientWidth`,
 * `points`. onnxruntime-web is replaced by an empty module: nothing here runs a model.
 */

import { readFileSync } from "node:fs";
import { register } from "node:module";

const empty = "data:text/javascript,export const env = { wasm: {} };";
const hook = `export async function resolve(name, context, next) {
  return name === "onnxruntime-web"
    ? { url: ${JSON.stringify(empty)}, shortCircuit: true }
    : next(name, context);
}`;
register(`data:text/javascript,${encodeURIComponent(hook)}`);

const task = JSON.parse(readFileSync(0, "utf8"));
globalThis.devicePixelRatio = task.ratio;
globalThis.matchMedia = () => ({ matches: task.dark });
globalThis.getComputedStyle = () => ({ color: "black" });
const painted = [];
const pen = new Proxy(
  { scaled: 1 },
  {
    get(state, name) {
      if (name in state) return state[name];
      return (...given) => {
        if (name === "scale") state.scaled = given[0];
        if (name === "fillRect") painted.push([state.fillStyle, ...given]);
      };
    },
    set(state, name, value) {
      state[name] = value;
      return true;
    },
  },
);
const canvas = { style: {}, getContext: () => pen, clientWidth: task.clientWidth };
const { drawWeights, weightAt } = await import(task.module);
const weights = { dims: task.dims, data: Float32Array.from(task.data) };
drawWeights(canvas, weights, { row: 0, head: 1 });
const found = task.points.map(([x, y]) =>
  weightAt(canvas, weights, x, y, { row: 0, head: 1 }),
);
const { width, height, style } = canvas;
console.log(JSON.stringify({ width, height, style, scaled: pen.scaled, painted, found }));
