// The WebSocket: one connection, subscriptions that survive it. After a loss each subscription resumes right after the last
// sequence it was given, so its handler sees every item once and in order.

const RETRY_MS_MIN = 250;
const RETRY_MS_MAX = 5000;

export class Stream {
  constructor(handlers) {
    this.handlers = handlers; // state(word, detail), heartbeat(message), roundTrip(ms)
    this.subscriptions = new Map();
    this.nextId = 1;
    this.retryMs = RETRY_MS_MIN;
    this.pings = new Map();
    this.connect();
    setInterval(() => this.watch(), 1000);
  }

  connect() {
    this.handlers.state("connecting");
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/v1/stream`);
    this.socket = socket;
    this.heardAt = performance.now();
    socket.onmessage = (event) => {
      this.heardAt = performance.now();
      this.receive(JSON.parse(event.data));
    };
    socket.onclose = (event) => {
      if (this.socket !== socket) return;
      this.handlers.state("lost", event.reason);
      setTimeout(() => this.connect(), this.retryMs);
      this.retryMs = Math.min(2 * this.retryMs, RETRY_MS_MAX);
    };
  }

  /** Three heartbeats missed: the connection is dead even if nobody says so. */
  watch() {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    if (performance.now() - this.heardAt > 3 * (this.heartbeatMs ?? 1000) + 1000) {
      this.socket.close();
      return;
    }
    const id = this.nextId++;
    this.pings.clear();
    this.pings.set(id, performance.now());
    this.send({ op: "ping", id });
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  /**
   * Subscribes; `handler` gets item, and `again` when what it holds is void and it starts anew.
   * Returns what ends the subscription.
   */
  subscribe(request, handler) {
    const id = this.nextId++;
    this.subscriptions.set(id, { request, handler, delivered: undefined });
    this.open(id);
    return () => {
      if (this.subscriptions.delete(id)) this.send({ op: "unsubscribe", id });
    };
  }

  open(id) {
    const { request, delivered } = this.subscriptions.get(id);
    const resumed = delivered === undefined || request.channel === "book" ? {} : { from_sequence: delivered + 1 };
    this.send({ op: "subscribe", id, ...request, ...resumed });
  }

  receive(message) {
    const subscription = this.subscriptions.get(message.id);
    switch (message.type) {
      case "hello":
        this.heartbeatMs = message.heartbeat_interval_ms;
        this.retryMs = RETRY_MS_MIN;
        this.handlers.state("live", message.tape);
        for (const id of this.subscriptions.keys()) this.open(id);
        break;
      case "heartbeat":
        this.handlers.heartbeat(message);
        break;
      case "pong": {
        const sent = this.pings.get(message.id);
        if (sent !== undefined) this.handlers.roundTrip(performance.now() - sent);
        break;
      }
      case "data":
        if (!subscription) break;
        subscription.delivered = message.sequence;
        for (const item of message.data) subscription.handler(item);
        break;
      case "subscribed":
        if (subscription && subscription.delivered === undefined) subscription.delivered = message.start - 1;
        break;
      case "error":
        if (!subscription) break;
        // What is not kept any more cannot be resumed: begin anew, and say so.
        if (message.error === "below_retention" && subscription.delivered !== undefined) {
          subscription.delivered = undefined;
          delete subscription.request.from_sequence;
          this.handlers.state("gap", message.what);
          this.open(message.id);
        } else {
          this.handlers.state("refused", `${message.what}. ${message.what_to_do}.`);
        }
        break;
      case "server_shutdown":
        this.handlers.state("closing");
        break;
    }
  }
}
