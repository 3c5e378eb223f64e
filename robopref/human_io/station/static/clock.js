// The server's monotonic clock as seen from this page.
//
// The server echoes the time of our last message and says how long it held it; of the exchanges of the last
// seconds the quickest one tells the offset best (its error is at most half its round trip).

const KEPT_MS = 20_000;

export class ServerClock {
  #exchanges = [];

  learn({ server_ms: server, echo_ms: echo, held_ms: held }) {
    if (echo === null) return;
    const now = performance.now();
    const roundTrip = Math.max(0, now - echo - held);
    this.#exchanges.push({ now, roundTrip, offset: server + roundTrip / 2 - now });
    while (this.#exchanges[0].now < now - KEPT_MS) this.#exchanges.shift();
  }

  get known() {
    return this.#exchanges.length > 0;
  }

  #best() {
    return this.#exchanges.reduce((a, b) => (b.roundTrip < a.roundTrip ? b : a));
  }

  get offset() {
    return this.known ? this.#best().offset : NaN;
  }

  /** Shortest round trip of the last seconds, in milliseconds. */
  get roundTrip() {
    return this.known ? this.#best().roundTrip : NaN;
  }

  /** Milliseconds from a time of the server's clock until `at` of the page's; NaN before anything is known. */
  since(serverMs, at = performance.now()) {
    return at + this.offset - serverMs;
  }
}
