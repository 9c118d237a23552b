// How far the tape has come, stage by stage, out of the heartbeats.

import { byId, count, setText } from "./format.js";

const STAGES = [
  ["accepted", "Sequenced, in memory"],
  ["written", "Handed to the kernel"],
  ["durable", "Synced to disk"],
  ["replicated", "Durable on the ack quorum"],
  ["visible", "What every reader may see"],
];
const WINDOW_MS = 5000;

export class Watermarks {
  constructor() {
    this.samples = [];
    this.items = STAGES.map(([name, meaning]) => {
      const item = document.createElement("li");
      item.title = meaning;
      item.innerHTML = '<div class="stage"></div><div class="at">–</div><div class="how"></div>';
      item.firstChild.textContent = name[0].toUpperCase() + name.slice(1);
      return item;
    });
    byId("stages").replaceChildren(...this.items);
    this.intake = byId("intake");
  }

  /** Takes a heartbeat. */
  take(message) {
    const now = performance.now();
    const { slowed_permille: slowed, what } = message.intake ?? {};
    setText(this.intake, slowed ? `${slowed < 1000 ? `Intake slowed ${Math.round(slowed / 10)} %` : "No events are taken"}: ${what}` : "");
    this.samples.push({ now, marks: message.watermarks });
    while (this.samples.length > 2 && this.samples[0].now < now - WINDOW_MS) this.samples.shift();
    const first = this.samples[0];
    const seconds = (now - first.now) / 1000;
    STAGES.forEach(([name], at) => {
      const [, position, how] = this.items[at].children;
      const here = message.watermarks[name];
      setText(position, count(here));
      const rate = seconds > 0.5 ? (here - first.marks[name]) / seconds : 0;
      const behind = message.watermarks.accepted - here;
      setText(how, `${count(Math.max(0, rate))}/s${at > 0 ? ` · ${behind > 0 ? "−" + count(behind) : "level"}` : ""}`);
    });
  }
}
