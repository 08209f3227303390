// How the agents' desk calls for attention: a sound, a notification of the system, and the number in the title.

const $ = (id) => document.getElementById(id);
const KEY = "desk:muted";
const APART = 1_500; // milliseconds between two sounds
const NOTES = { opened: [659, 880], message: [740] }; // Hz

// Storage may be forbidden: then nothing is remembered.
const stored = () => {
  try {
    return localStorage.getItem(KEY) == "true";
  } catch {}
};

export class Alerts {
  #title = document.title;
  #audio;
  #last = -APART;
  #isMuted = stored() ?? false;

  constructor() {
    // A page may make sounds once somebody has done something on it.
    for (const type of ["pointerdown", "keydown"]) addEventListener(type, () => this.#wake(), { capture: true });
    $("sound").addEventListener("click", async () => {
      this.#isMuted = !this.#isMuted;
      try {
        localStorage.setItem(KEY, String(this.#isMuted));
      } catch {}
      this.#show();
      if (this.#isMuted) return;
      await this.#wake();
      this.#play(NOTES.message);
    });
    $("notify").addEventListener("click", async () => {
      await Notification.requestPermission();
      this.#show();
    });
    this.#show();
  }

  /** The number in front of the title. */
  count(unread) {
    const title = (unread ? `(${unread}) ` : "") + this.#title;
    if (document.title != title) document.title = title;
  }

  /** Says that a chat was opened, or that its customer has written; `open` opens it. */
  call({ isNew, id, name, text, open }) {
    this.#play(isNew ? NOTES.opened : NOTES.message);
    if (!document.hidden || globalThis.Notification?.permission != "granted") return;
    // One for each chat: the next one of the same chat takes its place.
    const note = new Notification(isNew ? `New chat: ${name}` : name, { body: text, tag: `desk:${id}`, icon: "/static/demo-icon.svg" });
    note.onclick = () => {
      note.close();
      window.focus();
      open();
    };
  }

  async #wake() {
    if (this.#isMuted) return;
    try {
      this.#audio ??= new AudioContext();
      if (this.#audio.state == "suspended") await this.#audio.resume();
    } catch {} // a browser without sound
  }

  #play(notes) {
    const now = performance.now();
    if (this.#isMuted || this.#audio?.state != "running" || now - this.#last < APART) return;
    this.#last = now;
    notes.forEach((pitch, n) => {
      const start = this.#audio.currentTime + n * 0.16;
      const tone = new OscillatorNode(this.#audio, { type: "sine", frequency: pitch });
      const volume = new GainNode(this.#audio, { gain: 0 });
      volume.gain.setValueAtTime(0, start);
      volume.gain.linearRampToValueAtTime(0.12, start + 0.015);
      volume.gain.exponentialRampToValueAtTime(0.0001, start + 0.45);
      tone.connect(volume).connect(this.#audio.destination);
      tone.start(start);
      tone.stop(start + 0.5);
    });
  }

  #show() {
    $("sound").setAttribute("aria-pressed", String(!this.#isMuted));
    $("sound").title = this.#isMuted ? "Sounds are off" : "Sounds are on";
    $("notify").hidden = globalThis.Notification?.permission != "default";
  }
}
