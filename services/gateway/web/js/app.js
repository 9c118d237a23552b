// The page: which instrument, live or past, and one drawing per frame of whatever has changed.

import { ask } from "./api.js";
import { Book, Ladder } from "./book.js";
import { Candles, INTERVALS } from "./candles.js";
import { byId, decimal, decimalsOf, endOfMs, setText, short, toMs } from "./format.js";
import { Stream } from "./stream.js";
import { Timeline } from "./timeline.js";
import { Trades } from "./trades.js";
import { Watermarks } from "./watermarks.js";

const DEPTH = 20;
/** Few enough to be shown side by side. */
const INSTRUMENTS_AS_TABS = 8;
/** Fewer candles than this leave the chart bare. */
const CANDLES_FEW = 24;

const ladder = new Ladder();
const trades = new Trades();
const watermarks = new Watermarks();
const book = new Book();
const timeline = new Timeline({ past: showPast, live: showLive, failed: notice });
const candles = new Candles((ms) => timeline.goTo(ms));
const stream = new Stream({ state: connection, heartbeat, roundTrip });

let instruments = [];
let current = null;
let decimals = { price: 2, quantity: 0 };
/** The venue does not say what its price step is: the prices themselves do. */
let learnsDecimals = false;
let endSubscriptions = [];
/** The day's trades, in UTC days as the daily candles are. */
let session = emptySession();
let lastTrade = null;
/** Trades up to here are in the list. */
let listed = 0;
let past = null;
let proven;
let bookChanged = true;
let selection = 0;

/** Says what is wrong until it is right again. */
function notice(error) {
  const element = byId("notice");
  element.hidden = !error;
  if (error) setText(element, String(error.message ?? error));
}

function connection(state, detail) {
  const words = {
    connecting: ["Connecting", ""], live: ["Live", "live"], lost: ["Connection lost, trying again", "lost"],
    closing: ["Server is stopping", "lost"], gap: ["Some history is gone", "lost"], refused: ["Refused", "lost"],
  };
  const [text, mark] = words[state];
  const element = byId("connection");
  element.dataset.state = state === "live" && past ? "past" : mark;
  setText(element, state === "live" && past ? "Looking back" : text);
  if (state === "live") {
    setText(byId("tape"), `tape ${detail ?? ""}`);
    notice(null);
    if (!current) loadInstruments();
  } else if (detail && state !== "lost") {
    notice(detail);
  }
}

function roundTrip(ms) {
  setText(byId("rtt"), ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`);
}

let beats = 0;

function heartbeat(message) {
  watermarks.take(message);
  beats += 1;
  // New instruments and changes of status are rare: a look every few seconds is enough.
  if (!current || beats % 5 === 0) loadInstruments();
}

let loading = false;

/** Instruments appear on a tape; a new tape has none until they do. */
async function loadInstruments() {
  if (loading) return;
  loading = true;
  try {
    const answer = await ask("instruments");
    const grown = answer.instruments.length !== instruments.length;
    instruments = answer.instruments;
    if (grown) {
      showInstruments();
      check("instrument", current);
    }
    const mine = instruments.find((item) => item.instrument === current);
    if (mine) status(mine.trading_status);
    if (!current && instruments.length > 0) {
      const wanted = decodeURIComponent(location.hash.slice(1));
      await select((instruments.find((item) => item.instrument === wanted) ?? instruments[0]).instrument);
    }
    if (instruments.length === 0) setText(byId("symbol"), "Waiting for the first instrument");
  } catch (error) {
    notice(error);
  } finally {
    loading = false;
  }
}

function showInstruments() {
  const host = byId("instruments");
  if (instruments.length > INSTRUMENTS_AS_TABS) {
    const list = document.createElement("select");
    list.setAttribute("aria-label", "Instrument");
    for (const item of instruments) list.add(new Option(item.name ? `${item.instrument} · ${item.name}` : item.instrument, item.instrument));
    list.addEventListener("change", () => select(list.value));
    host.removeAttribute("role");
    host.replaceChildren(list);
    return;
  }
  host.replaceChildren(...instruments.map((item) => radio("instrument", item.instrument, item.instrument, () => select(item.instrument))));
}

function radio(group, value, text, chosen) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  input.type = "radio";
  input.name = group;
  input.value = value;
  input.addEventListener("change", chosen);
  label.append(input, text);
  return label;
}

function check(group, value) {
  for (const input of document.querySelectorAll(`input[name="${group}"]`)) input.checked = input.value === value;
  const list = document.querySelector(`#${group}s select`);
  if (list) list.value = value;
}

/** The interval with which a stretch of time fits some screens of candles. */
function fittingInterval(seconds) {
  return (INTERVALS.find(([, length]) => seconds / length <= 400) ?? INTERVALS[INTERVALS.length - 1])[0];
}

async function select(symbol) {
  const mine = ++selection;
  endSubscriptions.forEach((end) => end());
  endSubscriptions = [];
  current = symbol;
  past = null;
  check("instrument", symbol);
  history.replaceState(null, "", `#${encodeURIComponent(symbol)}`);
  try {
    const extent = await ask(`instruments/${encodeURIComponent(symbol)}`);
    if (mine !== selection) return;
    decimals = { price: decimalsOf(extent.price_increment), quantity: decimalsOf(extent.quantity_increment) };
    learnsDecimals = decimals.price === 0 && !(Number(extent.price_increment) > 0);
    candles.decimals = decimals;
    setText(byId("symbol"), symbol);
    setText(byId("name"), extent.name && extent.name !== symbol ? extent.name : "");
    status(extent.trading_status);
    document.title = `${symbol} · matchtape`;
    timeline.begin(symbol, extent.first_event_time ? extent : null);
    book.clear();
    trades.clear();
    session = emptySession();
    lastTrade = null;
    const recorded = timeline.firstMs === null ? 0 : (timeline.lastMs - timeline.firstMs) / 1000;
    await Promise.all([loadCandles(fittingInterval(recorded), mine), loadSession(symbol, mine)]);
    // Orders may have stood there long before anything traded.
    const [first, last] = [candles.list[0], candles.list[candles.list.length - 1]];
    if (first && candles.list.length < CANDLES_FEW) {
      const finer = fittingInterval((last.start - first.start) / 1000 + candles.seconds);
      if (finer !== candles.interval) await loadCandles(finer, mine);
    }
    if (mine !== selection) return;
    check("interval", candles.interval);
    const recent = await ask("trades", { instrument: symbol, limit: 60 });
    if (mine !== selection) return;
    trades.replace(recent.trades);
    lastTrade = recent.trades.find((item) => item.kind === "trade_matched") ?? null;
    listed = recent.visible;
    const from = Math.min(recent.visible, candles.sequence, session.through) + 1;
    endSubscriptions = [
      stream.subscribe({ channel: "trades", symbols: [symbol], from_sequence: from }, (item) => onTrade(item, mine)),
      subscribeBook(symbol),
    ];
    byId("instruments").querySelector(":checked")?.parentElement.scrollIntoView({ block: "nearest", inline: "nearest" });
  } catch (error) {
    notice(error);
  }
}

function subscribeBook(symbol) {
  let end;
  const start = () => {
    end = stream.subscribe({ channel: "book", symbols: [symbol], depth: DEPTH }, (item) => {
      bookChanged = true;
      if (item.event_time) timeline.extend(toMs(item.event_time));
      if (!book.apply(item)) {
        // A copy that is not the book is worth nothing: fetch it anew.
        end();
        start();
      }
    });
  };
  start();
  return () => end();
}

function onTrade(item, mine) {
  if (!candles.add(item)) loadCandles(candles.interval, mine).catch(notice);
  if (item.sequence > listed) {
    listed = item.sequence;
    if (!past) trades.add(item);
  }
  if (item.kind === "trade_busted") {
    loadSession(current, mine).catch(notice);
  } else {
    if (!lastTrade || item.sequence > lastTrade.sequence) lastTrade = item;
    addToSession(item);
  }
  timeline.extend(toMs(item.event_time));
}

function status(word) {
  const tag = byId("trading-status");
  setText(tag, word && word !== "unknown" ? word.replace("_", " ") : "");
  tag.dataset.status = word ?? "";
}

function learnDecimals(prices) {
  if (!learnsDecimals) return;
  const most = Math.max(decimals.price, ...prices.map(decimalsOf));
  if (most > decimals.price) {
    decimals.price = most;
    candles.changed = true;
    bookChanged = true;
  }
}

async function loadCandles(interval, mine) {
  candles.clear(interval);
  const answer = await ask("candles", { instrument: current, interval });
  if (mine !== selection || candles.interval !== interval) return;
  learnDecimals(answer.candles.flatMap((row) => [row.open, row.high, row.low, row.close]));
  candles.load(answer);
  if (past) {
    candles.markAsOf(past.ms, past.trade?.price ?? null);
    completePast(past.ms, mine).catch(notice);
  }
}

const DAY_MS = 86_400_000;

function emptySession() {
  return { day: null, open: null, high: null, low: null, volume: 0, through: 0 };
}

async function loadSession(symbol, mine) {
  const { from } = dayUpTo(timeline.lastMs ?? 0);
  const answer = await ask("candles", { instrument: symbol, interval: "1d", from });
  if (mine !== selection) return;
  session = { ...sessionOf(answer.candles[answer.candles.length - 1]), through: answer.sequence };
}

/** The session of a daily candle. */
function sessionOf(row) {
  if (row?.open === undefined) return emptySession();
  return { ...emptySession(), day: toMs(row.start) / DAY_MS, open: +row.open, high: +row.high, low: +row.low, volume: +row.volume };
}

function addToSession(trade) {
  if (trade.sequence <= session.through || trade.price === undefined) return;
  session.through = trade.sequence;
  const [price, today] = [Number(trade.price), Math.floor(toMs(trade.event_time) / DAY_MS)];
  if (session.day === null || today > session.day) {
    session = { ...emptySession(), day: today, open: price, high: price, low: price, through: trade.sequence };
  }
  if (today < session.day) return;
  session.high = Math.max(session.high, price);
  session.low = Math.min(session.low, price);
  session.volume += Number(trade.quantity);
}

function showPast(then) {
  const trade = then.trades.find((item) => item.kind === "trade_matched");
  past = { levels: { bids: then.book.bids, asks: then.book.asks }, trade, session: emptySession(), ms: then.ms };
  const element = byId("connection");
  element.dataset.state = "past";
  setText(element, "Looking back");
  trades.replace(then.trades);
  candles.markAsOf(then.ms, trade?.price ?? null);
  bookChanged = true;
  // What costs more waits until the slider rests.
  clearTimeout(resting);
  resting = setTimeout(() => completePast(then.ms, selection).catch(notice), REST_MS);
}

const REST_MS = 250;
let resting;

/** The day up to the moment shown, and the candles around it. */
async function completePast(ms, mine) {
  const isShown = () => mine === selection && past?.ms === ms;
  const today = ask("candles", { instrument: current, interval: "1d", ...dayUpTo(ms) });
  if (!candles.covers(ms)) {
    const { interval, seconds } = candles;
    const around = (count) => `${BigInt(Math.floor(ms + 1000 * seconds * count)) * 1_000_000n}ns`;
    const answer = await ask("candles", { instrument: current, interval, from: around(-CANDLES_BEFORE), to: around(CANDLES_AFTER) });
    if (!isShown() || interval !== candles.interval) return;
    candles.load(answer, true);
    candles.offset = 0;
    candles.markAsOf(ms, past.trade?.price ?? null);
  }
  const row = (await today).candles[0];
  if (isShown()) past.session = sessionOf(row);
}

const CANDLES_BEFORE = 250;
const CANDLES_AFTER = 50;

/** The UTC day of a moment, as far as that. */
function dayUpTo(ms) {
  return { from: `${BigInt(Math.floor(ms / DAY_MS) * DAY_MS) * 1_000_000n}`, to: endOfMs(ms) };
}

async function showLive() {
  past = null;
  candles.markAsOf(null);
  if (candles.isHistoric) loadCandles(candles.interval, selection).catch(notice);
  connection("live", byId("tape").textContent.replace("tape ", ""));
  bookChanged = true;
  trades.clear();
  try {
    const mine = selection;
    const recent = await ask("trades", { instrument: current, limit: 60 });
    if (mine !== selection || past) return;
    const newer = trades.items.filter((item) => item.sequence > recent.visible).reverse();
    trades.replace(recent.trades);
    newer.forEach((item) => trades.add(item, false));
    listed = Math.max(listed, recent.visible);
  } catch (error) {
    notice(error);
  }
}

function showQuote(levels) {
  const [trade, today] = past ? [past.trade, past.session] : [lastTrade, session];
  setText(byId("last"), trade ? decimal(trade.price, decimals.price) : "–");
  const change = byId("change");
  if (trade && today.open !== null) {
    const difference = Number(trade.price) - today.open;
    const percent = today.open !== 0 ? (100 * difference) / Math.abs(today.open) : 0;
    const sign = difference > 0 ? "+" : "";
    setText(change, `${sign}${decimal(difference.toFixed(decimals.price), decimals.price)}  ${sign}${percent.toFixed(2).replace("-", "−")} %`);
    change.className = difference > 0 ? "up" : difference < 0 ? "down" : "";
  } else {
    setText(change, "");
  }
  setText(byId("fact-bid"), decimal(levels.bids[0]?.[0], decimals.price));
  setText(byId("fact-ask"), decimal(levels.asks[0]?.[0], decimals.price));
  const price = (value) => (value === null ? "–" : decimal(value.toFixed(decimals.price), decimals.price));
  setText(byId("fact-high"), price(today.high));
  setText(byId("fact-low"), price(today.low));
  setText(byId("fact-volume"), today.volume ? short(today.volume) : "–");
}

let rangeShownAt = 0;

function frame(now) {
  // First, so that one bad drawing is not the last.
  requestAnimationFrame(frame);
  if (current) {
    const levels = past ? past.levels : book.levels();
    if (bookChanged) {
      learnDecimals([...levels.bids, ...levels.asks].map((level) => level[0]));
      bookChanged = false;
      proven = past ? undefined : book.isProven();
      ladder.show(levels, decimals, proven);
    }
    showQuote(levels);
    trades.show(decimals, !past);
    candles.show();
    if (now - rangeShownAt > 500) {
      rangeShownAt = now;
      timeline.showRange();
    }
  }
}

function theme(wanted) {
  document.documentElement.dataset.theme = wanted;
  candles.changed = true;
}

const prefersLight = matchMedia("(prefers-color-scheme: light)");
const remembered = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
theme(remembered() ?? (prefersLight.matches ? "light" : "dark"));
prefersLight.addEventListener("change", () => { if (!remembered()) theme(prefersLight.matches ? "light" : "dark"); });
byId("theme").addEventListener("click", () => {
  const wanted = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  theme(wanted);
  try { localStorage.setItem("theme", wanted); } catch { /* the choice lasts as long as the page */ }
});
addEventListener("resize", () => { bookChanged = true; });

byId("intervals").append(...INTERVALS.map(([name]) => radio("interval", name, name, () => loadCandles(name, selection).catch(notice))));
check("interval", "1m");
requestAnimationFrame(frame);
