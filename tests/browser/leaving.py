"""Counts what outlives the elements of a page: listeners, timers, requests, sockets and style sheets."""

from __future__ import annotations

import time

from playwright.sync_api import Page

from tests.browser.stage import drawn

# Runs before the widget is loaded. It holds nothing that a widget has not left itself.
COUNTS = """
{
    const listeners = new Map(), timers = new Map(), requests = new Set(), sockets = [];
    const outlives = /Window|Document|Viewport|MediaQueryList|HTMLHtml|HTMLBody|Channel|Network/;
    const kind = (target) => Object.prototype.toString.call(target).slice(8, -1);
    const numbers = new WeakMap();
    const number = (what) => numbers.get(what) ?? numbers.set(what, Math.random()).get(what);
    const { addEventListener: add, removeEventListener: remove } = EventTarget.prototype;
    const name = (target, type, listener, options) =>
        [kind(target), type, number(target), number(listener), !!(options?.capture ?? options)].join(" ");
    EventTarget.prototype.addEventListener = function (type, listener, options) {
        const target = this ?? window;
        if (listener && outlives.test(kind(target)) && !options?.signal?.aborted) {
            const key = name(target, type, listener, options);
            const forget = () => listeners.delete(key);
            listeners.set(key, `${kind(target)} ${type}`);
            if (options?.signal) add.call(options.signal, "abort", forget);
            if (options?.once) add.call(target, type, forget, options);
        }
        return add.call(target, type, listener, options);
    };
    EventTarget.prototype.removeEventListener = function (type, listener, options) {
        if (listener) listeners.delete(name(this ?? window, type, listener, options));
        return remove.call(this ?? window, type, listener, options);
    };
    const { setTimeout: later, setInterval: often, clearTimeout: clear, fetch: get } = window;
    window.setTimeout = (run, ms, ...given) => {
        const id = later(() => { timers.delete(id); run(...given); }, ms);
        timers.set(id, ms);
        return id;
    };
    window.setInterval = (...given) => {
        const id = often(...given);
        timers.set(id, given[1]);
        return id;
    };
    window.clearTimeout = window.clearInterval = (id) => {
        timers.delete(id);
        clear(id);
    };
    window.fetch = (...given) => {
        const asked = get(...given), mark = {};
        requests.add(mark);
        asked.catch(() => {}).finally(() => requests.delete(mark));
        return asked;
    };
    window.WebSocket = new Proxy(WebSocket, {
        construct(...given) {
            const made = Reflect.construct(...given);
            sockets.push(new WeakRef(made));
            return made;
        },
    });
    window.remaining = () => ({
        listeners: [...listeners.values()].sort(),
        timers: [...timers.values()],
        requests: requests.size,
        sockets: sockets.filter((ref) => (ref.deref()?.readyState ?? 3) < 2).length,
        sheets: document.adoptedStyleSheets.length,
        title: document.title,
    });
}
"""


def remaining(page: Page) -> dict[str, object]:
    """What there is now, by its kind; the listeners by target and type."""
    found: dict[str, object] = page.evaluate("remaining()")
    return found


def collected(page: Page) -> list[bool]:
    """Which elements of `refs`, a page's list of weak references, are gone after a garbage collection."""
    session = page.context.new_cdp_session(page)
    found: list[bool] = []
    deadline = time.monotonic() + 15
    # What is due with the next frames, and the last answers, hold it for a moment.
    while not all(found or [False]) and time.monotonic() < deadline:
        drawn(page)
        session.send("HeapProfiler.collectGarbage")
        found = page.evaluate("refs.map((ref) => !ref.deref())")
    session.detach()
    return found
