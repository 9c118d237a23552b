// Drives the real page in a real browser against a running gateway, and takes pictures of it.
//
//   npm install --no-save playwright-core          (and a chromium: apt-get install chromium)
//   matchtape demo --data DIR --listen 127.0.0.1:7410 &
//   node services/gateway/web/test/page.mjs --url http://127.0.0.1:7410/ --out pictures [--empty URL] [--chromium PATH]
//
// `--url`: a gateway whose tape grows. `--empty`: one whose tape has nothing on it. Ends with 1 if something is wrong.

import { existsSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    url: { type: "string" }, out: { type: "string", default: "pictures" }, empty: { type: "string" },
    chromium: { type: "string", default: ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync) },
  },
});
// Found from where the script is called, so that nothing has to be installed into the sources.
const { chromium } = createRequire(join(resolve("."), "package.json"))("playwright-core");
mkdirSync(options.out, { recursive: true });

let checks = 0;
function check(holds, what) {
  checks += 1;
  if (!holds) throw new Error(`not so: ${what}`);
}

const browser = await chromium.launch({ executablePath: options.chromium, args: ["--no-sandbox"] });

/** A page that must stay without errors and talk to its own gateway only. */
async function open(url, { width, height, theme }, prepare = () => {}) {
  const page = await browser.newPage({ viewport: { width, height }, colorScheme: theme, reducedMotion: "reduce" });
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(error.stack));
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) page.faults.push(message.text()); });
  page.on("request", (request) => { if (!request.url().startsWith(new URL(url).origin)) page.faults.push(`asked ${request.url()}`); });
  await prepare(page);
  await page.goto(url);
  return page;
}

async function close(page) {
  check(page.faults.length === 0, `no errors in the page, but ${page.faults.join("\n")}`);
  await page.close();
}

const text = (page, selector) => page.locator(selector).innerText();
const picture = (page, name, fullPage = false) => page.screenshot({ path: join(options.out, `${name}.png`), fullPage });
const rows = (page, selector) => page.locator(`${selector} .row`).evaluateAll((all) =>
  all.map((row) => [...row.children].map((cell) => cell.textContent)).filter((cells) => cells[0] !== ""));
const number = (shown) => Number(shown.replaceAll("\u2009", "").replace("−", "-").replace(/[▲▼]/, ""));

async function live(page) {
  await page.waitForFunction(() => document.querySelector("#connection").dataset.state === "live");
  await page.waitForFunction(() => document.querySelectorAll("#trades .row").length >= 5);
  await page.waitForFunction(() => document.querySelector("#bids .row span")?.textContent && document.querySelector("#asks .row span")?.textContent);
  await page.waitForFunction(() => document.querySelector("#proof").textContent === "Checksum agrees");
}

/** Moves the slider to a part of its range, and waits for the answer. */
async function lookBack(page, part) {
  const before = await text(page, "#as-of small");
  await page.locator("#moment").evaluate((slider, part) => {
    slider.value = String(Math.round(Number(slider.max) * part));
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  }, part);
  await page.waitForFunction((before) => {
    const now = document.querySelector("#as-of small").textContent;
    return document.querySelector("#connection").dataset.state === "past" && now !== before && /sequence [1-9]/.test(now);
  }, before);
  return number((await text(page, "#as-of small")).split("sequence ")[1]);
}

async function desktop() {
  let socket;
  const page = await open(options.url, { width: 1440, height: 900, theme: "dark" }, (page) =>
    page.routeWebSocket(/\/v1\/stream/, (route) => { socket = route; route.connectToServer(); }));
  await live(page);
  const instruments = await page.locator("#instruments input").count();
  check(instruments >= 2, "several instruments to choose from");

  // Everything moves.
  const before = { trade: await rows(page, "#trades"), visible: number(await page.locator("#stages .at").last().innerText()) };
  await page.waitForFunction((first) => document.querySelector("#trades .row").textContent !== first.join(""), before.trade[0]);
  await page.waitForFunction((before) => Number(document.querySelectorAll("#stages .at")[4].textContent.replaceAll("\u2009", "")) > before, before.visible);
  check((await text(page, "#rtt")).endsWith("ms"), "the round trip is measured");
  const painted = await page.locator("#candles").evaluate((canvas) =>
    canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value !== 0));
  check(painted, "candles are drawn");

  // The ladder is in order, and is the book.
  const [bids, asks] = [await rows(page, "#bids"), await rows(page, "#asks")];
  const falls = (levels, sign) => levels.every((level, at) => at === 0 || sign * (number(level[0]) - number(levels[at - 1][0])) < 0);
  check(bids.length > 3 && falls(bids, 1), "bids fall from the best");
  check(asks.length > 3 && falls(asks, -1), "offers rise from the best");
  await picture(page, "desktop-dark");

  // Another instrument.
  const first = await text(page, "#symbol");
  await page.locator("#instruments label").nth(1).click();
  await page.waitForFunction((first) => document.querySelector("#symbol").textContent !== first, first);
  await live(page);
  const symbol = await text(page, "#symbol");
  check((await page.title()).startsWith(symbol), "the title names the instrument");
  for (const interval of ["5s", "1m", "1d", "1s"]) {
    await page.locator(`#intervals label:has-text("${interval}")`).click();
    await page.waitForFunction((interval) => document.querySelector("#candles").getAttribute("aria-label").includes(`, ${interval}:`), interval);
  }

  // Any moment, exactly, and it stands still.
  const sequence = await lookBack(page, 0.5);
  const answer = await (await page.request.get(new URL(`/v1/book?instrument=${symbol}&at=${sequence}&depth=20`, options.url).href)).json();
  const shown = await rows(page, "#bids");
  check(shown.every((level, at) => number(level[0]) === Number(answer.bids[at][0]) && number(level[1]) === Number(answer.bids[at][1])), `the book as of ${sequence}`);
  const then = [await text(page, "#bids"), await text(page, "#trades"), await text(page, "#last")];
  const visible = number(await page.locator("#stages .at").last().innerText());
  await page.waitForFunction((visible) => Number(document.querySelectorAll("#stages .at")[4].textContent.replaceAll("\u2009", "")) > visible + 500, visible);
  check(then[0] === await text(page, "#bids") && then[1] === await text(page, "#trades") && then[2] === await text(page, "#last"), "the past does not move");
  await page.waitForFunction(() => document.querySelector("#fact-volume").textContent !== "–");
  await picture(page, "desktop-dark-past");
  // Step by step, each to another end of a group, also where a match has many events.
  const stands = async () => number((await text(page, "#as-of small")).split("sequence ")[1]);
  const step = async (button, sign) => {
    const from = await stands();
    await page.locator(button).click();
    await page.waitForFunction(({ from, sign }) =>
      sign * (Number(document.querySelector("#as-of small").textContent.split("sequence ")[1]?.replaceAll("\u2009", "")) - from) > 0, { from, sign });
    return stands();
  };
  let back = sequence;
  for (let count = 0; count < 12; count += 1) back = await step("#back", -1);
  check(back < sequence, "steps back");
  for (let count = 0; count < 12; count += 1) back = await step("#forward", 1);
  check(back >= sequence, "as many steps forward are where it began, or after it");

  // By keyboard alone: the slider, the chart, and back to now.
  const moment = await text(page, "#as-of");
  await page.locator("#moment").focus();
  await page.keyboard.press("ArrowLeft");
  await page.waitForFunction((before) => document.querySelector("#as-of").innerText !== before, moment);
  await page.locator("#candles").focus();
  await page.keyboard.press("ArrowLeft");
  await page.keyboard.press("Enter");
  await page.locator("#live").focus();
  await page.keyboard.press("Enter");
  await live(page);

  // A lost connection comes back and the trades go on, none twice.
  await socket.close({ code: 4000, reason: "lost on purpose" });
  await page.waitForFunction(() => document.querySelector("#connection").dataset.state === "lost");
  await live(page);
  const after = await rows(page, "#trades");
  await page.waitForFunction((first) => document.querySelector("#trades .row").textContent !== first.join(""), after[0]);

  await page.locator("#theme").click();
  check(await page.evaluate(() => document.documentElement.dataset.theme) === "light", "the theme can be chosen");
  await page.waitForTimeout(100); // one frame, so that the canvas is drawn in its new colours
  await picture(page, "desktop-light");
  await readable(page);
  await close(page);
}

async function phone(theme) {
  const page = await open(options.url, { width: 390, height: 844, theme });
  await live(page);
  const widths = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  check(widths[0] <= widths[1], `no scrolling sideways: ${widths}`);
  await picture(page, `phone-${theme}`);
  await picture(page, `phone-${theme}-whole`, true);
  const small = await page.locator("button, input[type=range], .instruments label, .segments label").evaluateAll((all) =>
    all.filter((element) => element.getClientRects().length && element.getBoundingClientRect().height < 22).map((element) => element.outerHTML));
  check(small.length === 0, `everything can be touched: ${small}`);
  await lookBack(page, 0.3);
  await page.waitForFunction(() => document.querySelector("#fact-volume").textContent !== "–");
  await picture(page, `phone-${theme}-past`);
  await readable(page);
  await close(page);
}

/** Names for everything that can be used, and contrast of 4.5 for all text (WCAG AA). */
async function readable(page) {
  const nameless = await page.locator("button, input, select, canvas").evaluateAll((all) =>
    all.filter((element) => !(element.labels?.length || element.getAttribute("aria-label") || element.textContent.trim())).map((element) => element.outerHTML));
  check(nameless.length === 0, `a name for ${nameless}`);
  const poor = await page.evaluate(() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgb = (color) => { canvas.fillStyle = "#000"; canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
    const light = ([r, g, b]) => [r, g, b].map((value) => value / 255).map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
      .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
    const ground = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const color = getComputedStyle(at).backgroundColor;
        if (color !== "rgba(0, 0, 0, 0)" && color !== "transparent") return color;
      }
      return "#fff";
    };
    const found = new Map();
    for (const element of document.querySelectorAll("body *")) {
      const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
      if (!own || !element.getClientRects().length || element.closest(".sr, .skip, :disabled")) continue;
      const [front, back] = [light(rgb(getComputedStyle(element).color)), light(rgb(ground(element)))];
      const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
      if (ratio < 4.5) found.set(element.className || element.id || element.tagName, ratio.toFixed(2));
    }
    return [...found];
  });
  check(poor.length === 0, `contrast: ${JSON.stringify(poor)}`);
}

async function empty() {
  const page = await open(options.empty, { width: 1440, height: 900, theme: "dark" });
  await page.waitForFunction(() => document.querySelector("#symbol").textContent.startsWith("Waiting"));
  await page.waitForFunction(() => document.querySelector("#connection").dataset.state === "live");
  await picture(page, "desktop-empty");
  await close(page);
}

try {
  await desktop();
  await phone("dark");
  await phone("light");
  if (options.empty) await empty();
  console.log(`the page holds: ${checks} checks, pictures in ${options.out}`);
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  await browser.close();
}
