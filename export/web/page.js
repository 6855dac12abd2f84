/** The form of index.html: `?artifact=FOLDER` names another folder. */

import {
  drawWeights,
  nested,
  openArtifact,
  weightAt,
  weightsOf,
} from "./attention.js";

const PRINTED = 2000; // values of one output
const find = (selector) => document.querySelector(selector);
const chosen = (name) => find(`[name=${name}]`);
const main = find("main");
const canvas = find("canvas");
let artifact, inputs, outputs;

/** Does one thing at a time, and shows its error; the last answer stays. */
async function doing(work) {
  main.setAttribute("aria-busy", "true");
  find("button").disabled = true;
  find("[role=alert]").textContent = "";
  try {
    await work();
  } catch (error) {
    find("[role=alert]").textContent = error.message;
    find("#time").textContent = "";
  }
  find("button").disabled = !artifact;
  main.setAttribute("aria-busy", "false");
}

function offer(name, values, labels = values) {
  const index = Math.max(chosen(name).selectedIndex, 0);
  const options = values.map((value, i) => new Option(labels[i], value));
  chosen(name).replaceChildren(...options);
  chosen(name).selectedIndex = Math.min(index, options.length - 1);
}

/** Seven ids, the last two of them padding. */
function example({ inputs, limits, max_lengths }) {
  const length = Math.min(7, ...Object.values(max_lengths));
  const tokens = Math.max(1, length - 2);
  const value = ({ dtype }, limit, i) => {
    if (dtype === "bool") return i < tokens;
    return limit > 2 && i < tokens ? 1 + ((i * 17) % (limit - 1)) : 0;
  };
  const sizeOf = (axis) => (axis === "batch" ? 1 : Number(axis) || length);
  const fill = (name, info, [axis, ...rest], i = 0) =>
    axis === undefined
      ? value(info, limits[name], i)
      : Array.from({ length: sizeOf(axis) }, (_, i) => fill(name, info, rest, i));
  const rows = Object.entries(inputs).map(
    ([name, info]) =>
      `  ${JSON.stringify(name)}: ${JSON.stringify(fill(name, info, info.shape))}`,
  );
  return `{\n${rows.join(",\n")}\n}`;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(
      'The inputs are not JSON. Expected {"token_ids": [[2, 3]], …} with true and false ' +
        `in lower case. Received: ${error.message}`,
    );
  }
}

async function run() {
  const asked = parsed(chosen("inputs").value);
  const start = performance.now();
  outputs = await artifact.ask(chosen("signature").value, asked);
  inputs = asked;
  find("#time").textContent = `${(performance.now() - start).toFixed(1)} ms`;
  find("#outputs").textContent = Object.entries(outputs).map(printed).join("\n\n");
  const maps = weightsOf(artifact.signatures[chosen("signature").value]);
  find("#weights").hidden = maps.length === 0;
  if (maps.length === 0) return;
  const [rows, heads] = outputs[maps[0]].dims;
  offer("layer", maps);
  offer("row", [...Array(rows).keys()]);
  offer("head", [...Array(heads).keys()]);
  draw();
}

function printed([name, tensor]) {
  const title = `${name}: ${tensor.type} [${tensor.dims.join(", ")}]`;
  if (tensor.data.length > PRINTED) return `${title}\n(${tensor.data.length} values)`;
  const rounded = (_, x) => (typeof x === "number" ? Number(x.toPrecision(6)) : x);
  return `${title}\n${JSON.stringify(nested(tensor), rounded).replaceAll("],", "],\n ")}`;
}

function draw() {
  const [row, head] = [Number(chosen("row").value), Number(chosen("head").value)];
  const labels = (inputs.token_ids?.[row] ?? []).map(String);
  drawWeights(canvas, outputs[chosen("layer").value], { row, head, labels });
  find("#cell").textContent = "";
}

function point({ offsetX, offsetY }) {
  const [row, head] = [Number(chosen("row").value), Number(chosen("head").value)];
  const weights = outputs[chosen("layer").value];
  const found = weightAt(canvas, weights, offsetX, offsetY, { row, head });
  find("#cell").textContent = found
    ? `Query ${found.query} attends to key ${found.key}: ${found.weight.toPrecision(4)}`
    : "";
}

find("form").addEventListener("submit", (event) => {
  event.preventDefault();
  doing(run);
});
chosen("signature").addEventListener("change", ({ target }) => {
  chosen("inputs").value = example(artifact.signatures[target.value]);
  doing(run);
});
find("#weights").addEventListener("change", draw);
canvas.addEventListener("pointermove", point);
canvas.addEventListener("pointerdown", point); // a tap does not move
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  if (!find("#weights").hidden) draw();
});

await doing(async () => {
  const folder = new URLSearchParams(location.search).get("artifact") ?? "artifact";
  artifact = await openArtifact(folder);
  const names = Object.keys(artifact.signatures);
  const drawn = names.findIndex((x) => weightsOf(artifact.signatures[x]).length > 0);
  offer("signature", names);
  chosen("signature").selectedIndex = Math.max(drawn, 0);
  chosen("inputs").value = example(artifact.signatures[chosen("signature").value]);
  await run();
});
