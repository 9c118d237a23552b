// Candles: history from HTTP, the newest grown by live trades; drawn on a canvas with volume, cross-hair and keyboard.

import { byId, clock, day, decimal, short, toMs } from "./format.js";

export const INTERVALS = [["1s", 1], ["5s", 5], ["1m", 60], ["5m", 300], ["15m", 900], ["1h", 3600], ["1d", 86400]];
const KEPT = 3000;
const TIME_STEPS = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 604800];
const AXIS_PX = 70;
const FOOT_PX = 24;
const TOP_PX = 30;

export class Candles {
  /** `pick(ms)` is told when a candle is chosen to be looked at. */
  constructor(pick) {
    this.pick = pick;
    this.canvas = byId("candles");
    this.legend = byId("legend");
    this.empty = byId("chart-empty");
    this.width = 8;
    this.offset = 0; // candles scrolled back from the newest
    this.cursor = null; // index under the cross-hair
    this.asOfMs = null;
    this.asOfPrice = null;
    this.decimals = { price: 2, quantity: 0 };
    this.clear("1m");
    this.listen();
  }

  clear(interval) {
    this.interval = interval;
    this.seconds = INTERVALS.find(([name]) => name === interval)[1];
    this.list = [];
    this.sequence = 0;
    this.isHistoric = false;
    this.offset = 0;
    this.cursor = null;
    this.changed = true;
  }

  /** Takes an answer of /v1/candles. */
  load(answer, isHistoric = false) {
    this.sequence = answer.sequence;
    this.isHistoric = isHistoric;
    this.list = answer.candles.filter((row) => row.open !== undefined).map((row) => ({
      start: toMs(row.start), open: +row.open, high: +row.high, low: +row.low, close: +row.close, volume: +row.volume,
    }));
    this.changed = true;
  }

  /** Grows the candle of a live trade. Returns false for a bust: then history has to be asked for again. */
  add(trade) {
    if (trade.sequence <= this.sequence || this.isHistoric) return true;
    if (trade.kind === "trade_busted") return false;
    if (trade.price === undefined) return true;
    this.sequence = trade.sequence;
    const ms = toMs(trade.event_time);
    const start = ms - (((ms % (1000 * this.seconds)) + 1000 * this.seconds) % (1000 * this.seconds));
    const [price, quantity] = [+trade.price, +trade.quantity];
    // Late trades belong to an older candle: look from the end.
    let at = this.list.length - 1;
    while (at >= 0 && this.list[at].start > start) at -= 1;
    const candle = this.list[at];
    if (candle && candle.start === start) {
      candle.high = Math.max(candle.high, price);
      candle.low = Math.min(candle.low, price);
      candle.close = price;
      candle.volume += quantity;
    } else {
      this.list.splice(at + 1, 0, { start, open: price, high: price, low: price, close: price, volume: quantity });
      if (this.offset > 0) this.offset += 1;
      if (this.list.length > KEPT) this.list.shift();
    }
    this.changed = true;
    return true;
  }

  /** Whether a moment lies among the candles here; if not, those around it have to be asked for. */
  covers(ms) {
    const [first, last] = [this.list[0], this.list[this.list.length - 1]];
    return first !== undefined && ms >= first.start && (!this.isHistoric || ms < last.start + 1000 * this.seconds);
  }

  /** Shows what had happened by then, and where that was; `null`: everything, up to now. */
  markAsOf(ms, price = null) {
    this.asOfMs = ms;
    this.asOfPrice = price === null ? null : Number(price);
    this.offset = ms === null ? 0 : this.offset;
    if (ms !== null) {
      const at = this.list.findLastIndex((candle) => candle.start <= ms);
      const newest = this.list.length - 1 - this.offset;
      const oldest = newest - this.visible() + 1;
      if (at >= 0 && (at > newest || at < oldest)) this.scroll(newest - at - Math.floor(this.visible() / 2));
    }
    this.changed = true;
  }

  listen() {
    const canvas = this.canvas;
    new ResizeObserver(() => { this.changed = true; }).observe(canvas);
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => {
      drag = { x: event.clientX, offset: this.offset, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (drag) {
        const candles = Math.round((event.clientX - drag.x) / this.width);
        if (candles !== 0) drag.moved = true;
        this.scroll(drag.offset + candles - this.offset);
      }
      this.cursor = this.indexAt(event.offsetX);
      this.changed = true;
    });
    canvas.addEventListener("pointerup", () => {
      if (drag && !drag.moved) this.choose();
      drag = null;
    });
    canvas.addEventListener("pointerleave", () => { this.cursor = null; this.changed = true; });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.scroll(Math.round(event.deltaX / -this.width));
      else this.zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 10 : 1;
      const from = this.cursor ?? this.list.length - 1 - this.offset;
      const actions = {
        ArrowLeft: () => this.moveCursor(from - step),
        ArrowRight: () => this.moveCursor(from + step),
        Home: () => this.moveCursor(0),
        End: () => this.moveCursor(this.list.length - 1),
        "+": () => this.zoom(1.2),
        "-": () => this.zoom(1 / 1.2),
        Enter: () => this.choose(),
        Escape: () => { this.cursor = null; this.changed = true; },
      };
      const action = actions[event.key];
      if (!action) return;
      event.preventDefault();
      action();
    });
  }

  choose() {
    const candle = this.list[this.cursor];
    if (candle) this.pick(candle.start + 1000 * this.seconds - 1);
  }

  moveCursor(index) {
    this.cursor = Math.max(0, Math.min(this.list.length - 1, index));
    const newest = this.list.length - 1 - this.offset;
    const oldest = newest - this.visible() + 1;
    if (this.cursor > newest) this.scroll(newest - this.cursor);
    if (this.cursor < oldest) this.scroll(oldest - this.cursor);
    this.changed = true;
  }

  scroll(candles) {
    this.offset = Math.max(0, Math.min(Math.max(0, this.list.length - 5), this.offset + candles));
    this.changed = true;
  }

  zoom(factor) {
    this.width = Math.max(2, Math.min(40, this.width * factor));
    this.changed = true;
  }

  visible() {
    return Math.max(1, Math.floor((this.canvas.clientWidth - AXIS_PX) / this.width));
  }

  indexAt(x) {
    const fromRight = Math.floor((this.canvas.clientWidth - AXIS_PX - x) / this.width);
    const index = this.list.length - 1 - this.offset - fromRight;
    return index >= 0 && index < this.list.length && fromRight >= 0 ? index : null;
  }

  show() {
    if (!this.changed) return;
    this.changed = false;
    const { canvas } = this;
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(wide * ratio) || canvas.height !== Math.round(high * ratio)) {
      canvas.width = Math.round(wide * ratio);
      canvas.height = Math.round(high * ratio);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, wide, high);
    this.empty.hidden = this.list.length > 0;
    const last = this.list.length - this.offset;
    const shown = this.list.slice(Math.max(0, last - this.visible()), last);
    if (shown.length === 0 || wide < 120 || high < 80) {
      this.legend.textContent = "";
      return;
    }
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name);
    const plot = { right: wide - AXIS_PX, bottom: high - FOOT_PX, top: TOP_PX };
    const volumeTop = plot.bottom - Math.round((plot.bottom - plot.top) * 0.18);
    let low = Math.min(...shown.map((candle) => candle.low));
    let top = Math.max(...shown.map((candle) => candle.high));
    const least = 4 * 10 ** -this.decimals.price;
    if (top - low < least) {
      low -= least / 2;
      top += least / 2;
    }
    const y = (price) => plot.top + ((top - price) / (top - low)) * (volumeTop - 10 - plot.top);
    const x = (at) => plot.right - (shown.length - at - 0.5) * this.width;
    pen.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    pen.textBaseline = "middle";
    this.drawGrid(pen, shown, { low, top, x, y, plot, wide, high, color });
    const mostVolume = Math.max(...shown.map((candle) => candle.volume), 1e-9);
    const body = Math.max(1, Math.floor(this.width * 0.68));
    shown.forEach((candle, at) => {
      const left = Math.round(x(at) - body / 2);
      const up = candle.close >= candle.open;
      const solid = this.asOfMs !== null && candle.start > this.asOfMs ? 0.28 : 1;
      pen.fillStyle = color(up ? "--candle-up" : "--candle-down");
      pen.globalAlpha = 0.38 * solid;
      const tall = Math.max(1, Math.round((candle.volume / mostVolume) * (plot.bottom - volumeTop)));
      pen.fillRect(left, plot.bottom - tall, body, tall);
      pen.globalAlpha = solid;
      const [from, to] = [y(Math.max(candle.open, candle.close)), y(Math.min(candle.open, candle.close))];
      pen.fillRect(Math.round(x(at) - 0.5), Math.round(y(candle.high)), 1, Math.max(1, Math.round(y(candle.low) - y(candle.high))));
      pen.fillRect(left, Math.round(from), body, Math.max(1, Math.round(to - from)));
    });
    pen.globalAlpha = 1;
    this.drawMarks(pen, shown, { x, y, plot, wide, color, low, top });
    this.describe(shown);
  }

  drawGrid(pen, shown, { low, top, x, y, plot, wide, high, color }) {
    const room = Math.max(2, Math.floor((plot.bottom - plot.top) / 56));
    const step = niceStep((top - low) / room, this.decimals.price);
    pen.strokeStyle = color("--grid");
    pen.fillStyle = color("--quiet");
    pen.lineWidth = 1;
    pen.textAlign = "left";
    for (let price = Math.ceil(low / step) * step; price <= top; price += step) {
      const at = Math.round(y(price)) + 0.5;
      pen.beginPath();
      pen.moveTo(0, at);
      pen.lineTo(plot.right, at);
      pen.stroke();
      pen.fillText(decimal(price.toFixed(this.decimals.price), this.decimals.price), plot.right + 8, at);
    }
    pen.textAlign = "center";
    // At round times, where the first candle of each lies.
    const step_s = TIME_STEPS.find((seconds) => (seconds / this.seconds) * this.width >= 84) ?? 86400 * 30;
    const slot = (candle) => Math.floor(candle.start / (1000 * step_s));
    let labelled = -Infinity;
    for (let at = 1; at < shown.length; at += 1) {
      const here = x(at);
      if (slot(shown[at]) === slot(shown[at - 1]) || here < 34 || here > plot.right - 26 || here - labelled < 70) continue;
      labelled = here;
      const newDay = day(shown[at].start) !== day(shown[at - 1].start);
      const text = this.seconds >= 86400 || newDay ? day(shown[at].start).slice(5) : clock(shown[at].start, false).slice(0, step_s < 60 ? 8 : 5);
      pen.fillText(text, here, high - FOOT_PX / 2);
    }
    pen.strokeStyle = color("--line");
    pen.beginPath();
    pen.moveTo(plot.right + 0.5, 0);
    pen.lineTo(plot.right + 0.5, plot.bottom + 0.5);
    pen.moveTo(0, plot.bottom + 0.5);
    pen.lineTo(wide, plot.bottom + 0.5);
    pen.stroke();
  }

  drawMarks(pen, shown, { x, y, plot, wide, color, low, top }) {
    const dashed = (fromX, fromY, toX, toY, stroke) => {
      pen.strokeStyle = stroke;
      pen.setLineDash([3, 3]);
      pen.beginPath();
      pen.moveTo(fromX, fromY);
      pen.lineTo(toX, toY);
      pen.stroke();
      pen.setLineDash([]);
    };
    const newest = this.list[this.list.length - 1];
    const isPast = this.asOfMs !== null;
    const tagged = isPast ? this.asOfPrice : newest.close;
    if (tagged !== null && tagged >= low && tagged <= top) {
      const at = Math.round(y(tagged)) + 0.5;
      const tone = color(isPast ? "--past" : newest.close >= newest.open ? "--bid" : "--ask");
      dashed(0, at, plot.right, at, tone);
      pen.fillStyle = tone;
      pen.fillRect(plot.right + 1, at - 9, wide - plot.right - 1, 18);
      pen.fillStyle = color("--bg");
      pen.textAlign = "left";
      pen.font = `600 ${pen.font}`;
      pen.fillText(decimal(tagged.toFixed(this.decimals.price), this.decimals.price), plot.right + 8, at);
    }
    if (this.asOfMs !== null) {
      let at = shown.findLastIndex((candle) => candle.start <= this.asOfMs);
      if (at < 0 && shown[0].start > this.asOfMs) at = 0;
      const line = Math.round(x(at)) + 0.5;
      pen.strokeStyle = color("--past");
      pen.lineWidth = 1.5;
      pen.beginPath();
      pen.moveTo(line, plot.top - 6);
      pen.lineTo(line, plot.bottom);
      pen.stroke();
      pen.lineWidth = 1;
    }
    if (this.cursor !== null) {
      const at = shown.indexOf(this.list[this.cursor]);
      if (at >= 0) dashed(Math.round(x(at)) + 0.5, plot.top, Math.round(x(at)) + 0.5, plot.bottom, color("--quiet"));
    }
  }

  describe(shown) {
    const then = this.asOfMs === null ? undefined : shown.findLast((one) => one.start <= this.asOfMs);
    const candle = (this.cursor !== null && this.list[this.cursor]) || then || shown[shown.length - 1];
    const price = (value) => decimal(value.toFixed(this.decimals.price), this.decimals.price);
    const parts = [["O", price(candle.open)], ["H", price(candle.high)], ["L", price(candle.low)], ["C", price(candle.close)], ["V", short(candle.volume)]];
    this.legend.replaceChildren(...parts.flatMap(([name, value]) => {
      const strong = document.createElement("b");
      strong.textContent = value;
      return [name + " ", strong];
    }));
    const when = `${day(candle.start)} ${clock(candle.start, false)}`;
    const label = `Candle of ${when} UTC, ${this.interval}: open ${parts[0][1]}, high ${parts[1][1]}, low ${parts[2][1]}, close ${parts[3][1]}, volume ${parts[4][1]}. Arrow keys move, plus and minus zoom, Enter shows the market as of then.`;
    if (this.canvas.getAttribute("aria-label") !== label) this.canvas.setAttribute("aria-label", label);
  }
}

function niceStep(rough, decimals) {
  const power = 10 ** Math.floor(Math.log10(Math.max(rough, 10 ** -decimals)));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough) ?? 10 * power;
  return Math.max(step, 10 ** -decimals);
}
