// The last trades, newest first. Busted ones stay, struck out.

import { byId, clock, decimal, setText, toMs } from "./format.js";

const ROWS = 60;

export class Trades {
  constructor() {
    this.list = byId("trades");
    this.rate = byId("trade-rate");
    this.clear();
  }

  clear() {
    this.items = [];
    this.arrivals = [];
    this.since = performance.now();
    this.changed = true;
  }

  /** Replaces all: newest first, as HTTP gives them. */
  replace(items) {
    this.items = [];
    for (const item of [...items].reverse()) this.add(item, false);
    this.changed = true;
  }

  add(item, live = true) {
    if (item.kind === "trade_busted") {
      const busted = this.items.find((trade) => trade.sequence === item.trade_sequence || (item.trade_id && trade.trade_id === item.trade_id));
      if (busted) busted.busted = true;
    } else {
      this.items.unshift(item);
      if (this.items.length > ROWS) this.items.length = ROWS;
      if (live) this.arrivals.push(performance.now());
    }
    this.changed = true;
  }

  show(decimals, isLive) {
    const now = performance.now();
    while (this.arrivals.length && this.arrivals[0] < now - 5000) this.arrivals.shift();
    setText(this.rate, isLive && this.items.length ? `${((1000 * this.arrivals.length) / Math.max(1000, Math.min(5000, now - this.since))).toFixed(1)}/s` : "");
    if (!this.changed) return;
    this.changed = false;
    const rows = this.list.children;
    for (let at = 0; at < this.items.length; at += 1) {
      const trade = this.items[at];
      const row = rows[at] ?? this.makeRow();
      const side = trade.aggressor === "buy" ? "buy" : trade.aggressor === "sell" ? "sell" : "";
      row.className = `row ${side}${trade.busted ? " busted" : ""}`;
      setText(row.children[0], clock(toMs(trade.event_time)));
      const mark = { buy: "▲", sell: "▼" }[side] ?? "";
      setText(row.children[1].firstChild, mark);
      setText(row.children[1].lastChild, decimal(trade.price, decimals.price));
      setText(row.children[2], decimal(trade.quantity, decimals.quantity));
      row.setAttribute("aria-label", `${clock(toMs(trade.event_time))}, ${trade.price}, ${trade.quantity}, ${side ? side + "er initiated" : "no initiator"}${trade.busted ? ", busted" : ""}`);
    }
    while (rows.length > this.items.length) this.list.lastElementChild.remove();
  }

  makeRow() {
    const row = document.createElement("div");
    row.setAttribute("role", "row");
    for (let cell = 0; cell < 3; cell += 1) {
      const span = document.createElement("span");
      span.setAttribute("role", "cell");
      row.append(span);
    }
    const mark = document.createElement("i");
    mark.setAttribute("aria-hidden", "true");
    row.children[1].append(mark, document.createElement("span"));
    this.list.append(row);
    return row;
  }
}
