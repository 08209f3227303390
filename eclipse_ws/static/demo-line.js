// What the agents' desk says about a connection.

const AGAIN = 5_000; // milliseconds for which the desk says that it is connected again

/** `lost` while the connection is, `back` for some seconds after that, nothing otherwise. */
export class Line {
  text = "";
  #timer;

  /** Calls `changed` when it has nothing to say any more. */
  constructor(changed, lost, back) {
    Object.assign(this, { changed, lost, back });
  }

  tell(up) {
    if (up ? this.text != this.lost : this.text == this.lost) return;
    clearTimeout(this.#timer);
    this.text = up ? this.back : this.lost;
    if (up) this.#timer = setTimeout(() => ((this.text = ""), this.changed()), AGAIN);
  }

  get isLost() {
    return this.text == this.lost;
  }
}
