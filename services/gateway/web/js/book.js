// An order book as the protocol tells clients to keep it, proven by its checksum, and the ladder that shows it.

import { byId, decimal, setText } from "./format.js";

const CHECKSUM_LEVELS = 10;

const CRC = new Uint32Array(256).map((_, value) => {
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(text) {
  let crc = ~0;
  for (let at = 0; at < text.length; at += 1) crc = (crc >>> 8) ^ CRC[(crc ^ text.charCodeAt(at)) & 255];
  return ~crc >>> 0;
}

/** One instrument's book to a depth. Levels are [price, quantity, orders] as they came. */
export class Book {
  constructor() {
    this.clear();
  }

  clear() {
    this.sides = { bids: new Map(), asks: new Map() };
    this.sorted = null;
    this.held = 0;
    this.complete = false;
  }

  /** Takes in a snapshot or a change; returns false when the book is wrong and has to be fetched anew. */
  apply(item) {
    if (item.type === "snapshot") {
      if (item.part === 1) this.clear();
      this.complete = item.last;
    } else {
      if (item.sequence <= this.held) return true;
      if (!this.complete || item.previous_sequence > this.held) return false;
    }
    for (const name of ["bids", "asks"]) {
      const side = this.sides[name];
      for (const level of item[name]) {
        if (level[1] === "0") side.delete(level[0]);
        else side.set(level[0], level);
      }
    }
    this.held = item.sequence;
    this.expected = item.checksum;
    this.sorted = null;
    return true;
  }

  /** Both sides, best first. */
  levels() {
    if (!this.sorted) {
      const best = (name, sign) => [...this.sides[name].values()].sort((a, b) => sign * (a[0] - b[0]));
      this.sorted = { bids: best("bids", -1), asks: best("asks", 1) };
    }
    return this.sorted;
  }

  /** Whether this copy is the exchange's book; undefined where that was not said. */
  isProven() {
    if (!this.complete || this.expected === undefined) return undefined;
    const { bids, asks } = this.levels();
    const lines = (name, levels) => levels.slice(0, CHECKSUM_LEVELS).map((level) => `${name},${level.join(",")}\n`).join("");
    return crc32(lines("buy", bids) + lines("sell", asks)) === this.expected;
  }
}

const ROW_PX = 22;

/** The ladder: rows are made once and filled again. */
export class Ladder {
  constructor() {
    this.asks = byId("asks");
    this.bids = byId("bids");
    this.spread = byId("spread");
    this.proof = byId("proof");
  }

  rows(side) {
    const wanted = Math.max(1, Math.floor(side.clientHeight / ROW_PX));
    while (side.children.length < wanted) {
      const row = document.createElement("div");
      row.className = "row";
      row.setAttribute("role", "row");
      for (const name of ["", "", "wide soft", "wide soft"]) {
        const cell = document.createElement("span");
        cell.setAttribute("role", "cell");
        cell.className = name;
        row.append(cell);
      }
      side.append(row);
    }
    while (side.children.length > wanted) side.lastElementChild.remove();
    return side.children;
  }

  show(levels, decimals, proven) {
    const askRows = this.rows(this.asks);
    const bidRows = this.rows(this.bids);
    const shown = Math.max(askRows.length, bidRows.length);
    const sum = (side) => side.slice(0, shown).reduce((total, level) => total + Number(level[1]), 0);
    const most = Math.max(sum(levels.asks), sum(levels.bids), 1e-9);
    this.fill(askRows, levels.asks, most, decimals);
    this.fill(bidRows, levels.bids, most, decimals);
    const [bid, ask] = [levels.bids[0], levels.asks[0]];
    if (bid && ask) {
      const wide = Number(ask[0]) - Number(bid[0]);
      const middle = (Number(ask[0]) + Number(bid[0])) / 2;
      this.spread.innerHTML = "";
      const strong = document.createElement("b");
      strong.textContent = decimal(wide.toFixed(decimals.price), decimals.price);
      this.spread.append("Spread ", strong, ` · ${((1e4 * wide) / middle).toFixed(1)} bp`);
    } else {
      setText(this.spread, bid || ask ? "One side only" : "No orders");
    }
    const text = { true: "Checksum agrees", false: "Checksum differs", undefined: "" }[proven];
    setText(this.proof, text);
    this.proof.classList.toggle("down", proven === false);
  }

  fill(rows, levels, most, decimals) {
    let total = 0;
    for (let at = 0; at < rows.length; at += 1) {
      const row = rows[at];
      const level = levels[at];
      if (level) total += Number(level[1]);
      const texts = level
        ? [decimal(level[0], decimals.price), decimal(level[1], decimals.quantity), String(level[2]), decimal(String(Number(total.toFixed(9))), decimals.quantity)]
        : ["", "", "", ""];
      texts.forEach((text, cell) => setText(row.children[cell], text));
      const part = level ? `${((100 * total) / most).toFixed(1)}%` : "0%";
      if (row.style.getPropertyValue("--part") !== part) row.style.setProperty("--part", part);
    }
  }
}
