// The status in words, colour and icon, and what a screen reader is told of it.

import { Intention } from "./intention.js";
import { MODES } from "./names.js";

const OLD_PICTURE_MS = 500;

const byId = (id) => document.getElementById(id);

function write(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

export class StatusView {
  #mode = "WAITING";
  #intention = new Intention(byId("intention"), byId("cameras"));
  #drivesHere = false;
  status = null;

  setDriver(drivesHere) {
    this.#drivesHere = drivesHere;
    if (this.status) this.show(this.status);
  }

  show(status) {
    this.status = status;
    this.#showMode(status.mode, status.reason);
    write("task", status.task || "Operator's station");
    write("instruction", status.instruction ? `“${status.instruction}”` : "");
    byId("hold-to-run").hidden = false;
    write("hold-to-run", status.hold_to_run ? "Hold to run: keep Take over pressed" : "Toggle: press once to take over");
    write("episode", `${status.episode} of ${status.episodes_planned}`);
    write("seconds", clockText(status.episode_seconds));
    write("step", String(status.step));
    write("takeovers", String(status.takeovers));
    write("share", `${Math.round(status.human_share * 100)} %`);
    write("outcomes", outcomesText(status.outcomes));
    write("rate", `${status.hz.toFixed(status.hz % 1 ? 1 : 0)} Hz`);
    write("lateness", status.jitter_p99_ms > 0 ? `ticks late by ${status.jitter_p99_ms.toFixed(1)} ms (99 %)` : "");
    this.#intention.show(status);
  }

  showLost(text) {
    this.#showMode("LOST", text);
  }

  showOver(text) {
    this.#showMode("OVER", text);
  }

  showAge(ms) {
    const old = !(ms < OLD_PICTURE_MS);
    write("frame-age", Number.isFinite(ms) ? (ms < 1000 ? `${Math.max(0, Math.round(ms))} ms old` : `${(ms / 1000).toFixed(1)} s old`) : "-");
    byId("picture").classList.toggle("old-picture", old && Number.isFinite(ms));
  }

  #showMode(mode, reason) {
    const { name, icon } = MODES[mode] ?? MODES.WAITING;
    const shown = mode === "TAKEOVER" && !this.#drivesHere ? "The operator drives" : name;
    byId("mode").dataset.mode = mode;
    document.body.dataset.mode = mode;
    write("mode-name", shown);
    write("mode-reason", reason || this.#usual(mode));
    const href = `#icon-${icon}`;
    if (byId("mode-icon").getAttribute("href") !== href) byId("mode-icon").setAttribute("href", href);
    if (mode !== this.#mode) {
      this.#mode = mode;
      // Once for each change: the reason counts seconds, and would be read out at every tick.
      write("announcer", reason ? `${shown}: ${reason}` : shown);
    }
  }

  #usual(mode) {
    const usual = {
      AUTONOMOUS: "take over when it goes wrong",
      TAKEOVER: this.#drivesHere ? "your commands are executed" : "in another page",
      PAUSED: "time stands still",
      STOPPED: "what was recorded is kept",
    };
    return usual[mode] ?? "";
  }
}

function clockText(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}.${Math.floor((seconds % 1) * 10)}`;
}

function outcomesText(outcomes) {
  const counted = Object.entries(outcomes).filter(([, count]) => count > 0);
  return counted.map(([name, count]) => `${count} ${name}`).join(", ") || "none yet";
}
