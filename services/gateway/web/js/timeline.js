// The time slider: any moment of the instrument's tape, exactly; or live.

import { ask } from "./api.js";
import { byId, clock, count, day, endOfMs, setText, toMs } from "./format.js";

const TRADES_SHOWN = 60;
const DEPTH = 20;

export class Timeline {
  /** `past({book, trades, ms})` is told what was; `live()` when it is now again; `failed(error)`. */
  constructor(handlers) {
    this.handlers = handlers;
    this.slider = byId("moment");
    this.isLive = true;
    this.firstMs = null;
    this.lastMs = null;
    this.sequence = 0;
    this.asking = null;
    this.slider.addEventListener("input", () => this.goTo(this.firstMs + Number(this.slider.value)));
    byId("live").addEventListener("click", () => this.goLive());
    byId("back").addEventListener("click", () => this.step(-1));
    byId("forward").addEventListener("click", () => this.step(1));
  }

  /** Another instrument: its tape's extent, if it has one. */
  begin(instrument, extent) {
    this.instrument = instrument;
    this.firstMs = extent ? toMs(extent.first_event_time) : null;
    this.lastMs = extent ? toMs(extent.last_event_time) : null;
    this.goLive(false);
    this.showRange();
  }

  /** An event of the instrument: the tape is that long now. */
  extend(ms) {
    this.firstMs ??= ms;
    if (this.lastMs === null || ms > this.lastMs) this.lastMs = ms;
  }

  showRange() {
    const known = this.firstMs !== null;
    this.slider.disabled = !known;
    byId("back").disabled = !known;
    byId("forward").disabled = !known || this.isLive;
    if (!known) {
      setText(byId("as-of"), "Nothing recorded yet");
      return;
    }
    const range = Math.max(1, this.lastMs - this.firstMs);
    this.slider.max = String(range);
    this.slider.step = String(Math.max(1, Math.round(range / 2000)));
    const sameDay = day(this.firstMs) === day(this.lastMs);
    const end = (ms) => (sameDay ? clock(ms, false) : `${day(ms)} ${clock(ms, false).slice(0, 5)}`);
    setText(byId("begins"), end(this.firstMs));
    setText(byId("ends"), end(this.lastMs));
    if (this.isLive) {
      this.slider.value = String(range);
      this.label(this.lastMs, null);
    }
  }

  label(ms, sequence) {
    const text = `${day(ms)} ${clock(ms)}`;
    const output = byId("as-of");
    const small = document.createElement("small");
    small.textContent = sequence === null ? "UTC, last event" : `UTC, sequence ${count(sequence)}`;
    output.replaceChildren(text, small);
    this.slider.setAttribute("aria-valuetext", `${this.isLive ? "Live" : "As of"} ${text} UTC`);
  }

  mode(isLive) {
    this.isLive = isLive;
    byId("timeline").classList.toggle("past", !isLive);
    byId("live").setAttribute("aria-pressed", String(isLive));
    byId("forward").disabled = isLive;
  }

  goLive(tell = true) {
    this.asking?.abort();
    this.wanted = null;
    const was = this.isLive;
    this.mode(true);
    this.showRange();
    if (tell && !was) this.handlers.live();
  }

  /** The moment after everything that happened up to and in this millisecond. */
  goTo(ms) {
    if (this.firstMs === null) return;
    const moment = Math.max(this.firstMs, Math.min(this.lastMs, ms));
    this.slider.value = String(moment - this.firstMs);
    this.show({ at: endOfMs(moment), ms: moment });
  }

  /**
   * One group of this instrument back or forward. A book stands at group ends only, so a step goes from end to end: to an
   * event inside a group it would come back to where it began.
   */
  async step(direction) {
    const [at, order] = direction < 0 ? ["to", "desc"] : ["from", "asc"];
    const near = this.isLive ? undefined : this.sequence + (direction > 0 ? 1 : 0);
    try {
      const own = { instrument: this.instrument, kind: "orders,trades", limit: 1, order, [at]: near };
      const event = (await ask("events", own)).events[0];
      if (!event) return;
      const end = await this.groupEnd(direction < 0 ? event.sequence - 1 : event.sequence, at, order);
      if (end) this.show({ at: String(end.sequence), ms: toMs((direction < 0 ? end : event).event_time) });
    } catch (error) {
      this.handlers.failed(error);
    }
  }

  /** The nearest end of a group, of any instrument, at or before (`to`) or after (`from`) a sequence. */
  async groupEnd(sequence, at, order) {
    for (let near = sequence; near > 0;) {
      const { events } = await ask("events", { [at]: near, order, limit: 64 });
      const end = events.find((event) => event.flags?.includes("last_of_group"));
      if (end || events.length === 0) return end;
      near = events.at(-1).sequence + (order === "asc" ? 1 : -1);
    }
    return undefined;
  }

  /** Asks for one moment at a time; while an answer is under way only the newest wish is kept. */
  async show(wish) {
    this.mode(false);
    this.label(wish.ms, this.sequence);
    this.wanted = wish;
    if (this.asking) return;
    while (this.wanted) {
      const { at, ms } = this.wanted;
      this.wanted = null;
      const asking = new AbortController();
      this.asking = asking;
      const instrument = this.instrument;
      try {
        const book = await ask("book", { instrument, at, depth: DEPTH }, asking.signal);
        const { trades } = await ask("trades", { instrument, to: book.sequence, limit: TRADES_SHOWN }, asking.signal);
        if (!this.isLive && instrument === this.instrument) {
          this.sequence = book.sequence;
          this.slider.value = String(ms - this.firstMs);
          this.label(ms, book.sequence);
          this.handlers.past({ book, trades, ms });
        }
      } catch (error) {
        if (error.name !== "AbortError") this.handlers.failed(error);
      }
      if (this.asking === asking) this.asking = null;
    }
  }
}
