/**
 * Opens the page of export/web in headless Chromium, asks it, and prints what it says.
 *
 * Reads JSON: `url`, `chromium`, `questions` (signature and inputs, for `attention.js`),
 * `forms` (signature and text, typed into the page). Stands beside node_modules.
 */

import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const task = JSON.parse(readFileSync(0, "utf8"));
const browser = await chromium.launch({ executablePath: task.chromium });
const page = await browser.newPage();
const complaints = [];
page.on("pageerror", (error) => complaints.push(error.message));
page.on("console", (line) => {
  if (line.type() === "error") complaints.push(line.text());
});

function shown() {
  return page.evaluate(async () => {
    const { MARGIN, cellSize } = await import("./attention.js");
    const text = (selector) => document.querySelector(selector).textContent;
    const canvas = document.querySelector("canvas");
    const count = JSON.parse(document.querySelector("textarea").value || "{}")
      .token_ids?.[0]?.length;
    const pen = canvas.getContext("2d");
    const cell = cellSize(count);
    const pixel = (x, y) =>
      Array.from(
        pen.getImageData(MARGIN + (x + 0.5) * cell, MARGIN + (y + 0.5) * cell, 1, 1)
          .data,
      );
    const isDrawn = !document.querySelector("#weights").hidden;
    const row = (y) => Array.from({ length: count }, (_, x) => pixel(x, y));
    return {
      inputs: document.querySelector("textarea").value,
      alert: text("[role=alert]"),
      outputs: text("#outputs"),
      layers: Array.from(
        document.querySelector("[name=layer]").options,
        (o) => o.value,
      ),
      pixels: isDrawn ? Array.from({ length: count }, (_, y) => row(y)) : null,
    };
  });
}

async function atRest() {
  await page.waitForSelector("main[aria-busy=false]", { timeout: 60_000 });
  return shown();
}

async function typed({ signature, text, head = 0, row = 0, stays = false }) {
  if (!stays) {
    await page.selectOption("[name=signature]", signature);
    await atRest();
  }
  await page.fill("textarea", text);
  await page.click("button");
  const said = await atRest();
  if (!said.pixels) return said;
  await page.selectOption("[name=row]", String(row));
  await page.selectOption("[name=head]", String(head));
  return shown();
}

/** The width of the page on a narrow screen, and what a tap on the map shows. */
async function onPhone() {
  await page.setViewportSize({ width: 380, height: 700 });
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  if (!(await page.locator("canvas").isVisible())) return { width };
  const box = await page.locator("canvas").boundingBox();
  const position = { x: box.width * 0.7, y: box.height * 0.7 };
  await page.locator("canvas").click({ position });
  return { width, cell: await page.textContent("#cell") };
}

try {
  await page.goto(task.url);
  const start = await atRest();
  const answers = await page.evaluate(async (questions) => {
    const { nested, openArtifact } = await import("./attention.js");
    const where = new URLSearchParams(location.search).get("artifact");
    const artifact = questions.length ? await openArtifact(where) : null;
    const answers = [];
    for (const { signature, inputs } of questions) {
      try {
        const begin = performance.now();
        const outputs = await artifact.ask(signature, inputs);
        const milliseconds = performance.now() - begin;
        const values = Object.entries(outputs).map(([name, x]) => [name, nested(x)]);
        answers.push({ milliseconds, outputs: Object.fromEntries(values) });
      } catch (error) {
        answers.push({ error: error.message });
      }
    }
    return answers;
  }, task.questions);
  const forms = [];
  for (const form of task.forms) forms.push(await typed(form));
  const phone = await onPhone();
  const version = browser.version();
  console.log(
    JSON.stringify({ version, start, answers, forms, phone, complaints }),
  );
} finally {
  await browser.close();
}
