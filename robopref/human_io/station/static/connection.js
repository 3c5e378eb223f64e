// The session and its sockets: how the page gets in, speaks, and comes back after a break.

const PROTOCOL = "robopref-station-1";
const KEY = "robopref-session";
const OPENED_ELSEWHERE = 4001;
const SESSION_OVER = 4002;
const FIRST_RETRY_MS = 200;
const LAST_RETRY_MS = 3000;
const MAX_WAITING_BYTES = 2048; // more than that in the socket is a line that stalls: what we add would arrive too late

/** Redeems the one-time token of the address, or goes on with the session of this tab. Returns an error text or "". */
export async function enter() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    history.replaceState(null, "", location.pathname); // the token is used up, and not to be shared by mistake
    const answer = await fetch("/session", { method: "POST", body: JSON.stringify({ token }) });
    if (answer.ok) {
      sessionStorage.setItem(KEY, (await answer.json()).key);
      return "";
    }
    if (!sessionStorage.getItem(KEY)) return await answer.text();
  }
  return sessionStorage.getItem(KEY) ? "" : "open the address that the station has printed: it holds a one-time token";
}

function open(path) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  return new WebSocket(`${scheme}://${location.host}${path}`, [PROTOCOL, sessionStorage.getItem(KEY)]);
}

/** A socket that connects anew when it breaks, unless the session is over or went on elsewhere. */
export class Line {
  #path;
  #handlers;
  #socket = null;
  #retryMs = FIRST_RETRY_MS;
  #failures = 0;

  constructor(path, handlers) {
    this.#path = path;
    this.#handlers = handlers;
    this.#connect();
  }

  get connected() {
    return this.#socket !== null && this.#socket.readyState === WebSocket.OPEN;
  }

  /** Sends a message if there is a line that takes it now; nothing is kept for later but what still counts `late`. */
  send(message, { late = false } = {}) {
    if (!this.connected || (!late && this.#socket.bufferedAmount > MAX_WAITING_BYTES)) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /** Breaks the line, as a network does. For tests. */
  cut() {
    this.#socket?.close();
  }

  #connect() {
    const socket = open(this.#path);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    socket.onopen = () => {
      this.#retryMs = FIRST_RETRY_MS;
      this.#failures = 0;
      this.#handlers.opened?.();
    };
    socket.onmessage = (event) => this.#handlers.message(event.data);
    socket.onclose = (event) => {
      if (event.code === OPENED_ELSEWHERE || event.code === SESSION_OVER) {
        this.#handlers.closed?.(event.code === SESSION_OVER ? "over" : "elsewhere", event.reason);
        return;
      }
      this.#failures += 1;
      this.#handlers.closed?.("lost", event.reason, this.#failures);
      setTimeout(() => this.#connect(), this.#retryMs);
      this.#retryMs = Math.min(LAST_RETRY_MS, this.#retryMs * 2);
    };
  }
}
