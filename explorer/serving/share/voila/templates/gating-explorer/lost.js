// Says in plain words that a page's session is over, and why, and opens it again as it was kept. It listens to the page's
// own connection with its kernel; only when that is in trouble does it ask the server what happened (serving/watch.py).
(() => {
  "use strict";
  const SOON = 300, AGAIN = 500, SELDOM = 1500, PATIENCE = 4000, SLOW = 3000; // milliseconds
  const RECONNECTING = 20000; // the page's own tries to connect anew go on for so long, or longer
  const LEAVING = 10000; // a page that is being left stays on the screen until the next one comes
  const CHANNELS = /\/api\/kernels\/([0-9a-f-]{36})\/channels/;
  const KEPT = "What was kept is kept. ";
  const begun = performance.now();
  let box, kernel = "", open = 0, since = 0, answered = 0, timer = 0, patience = 0, over = false, leaving = false;

  const now = () => performance.now();
  const settings = () => JSON.parse(document.getElementById("jupyter-config-data")?.textContent || "{}");
  const mark = () => document.querySelector("[data-ge-kept]")?.dataset.geKept || "";

  // -- the banner ---------------------------------------------------------------------------------------------------
  function show(words, final) {
    if (box.dataset.words === words) return;
    box.dataset.words = words;
    const text = document.createElement("p");
    text.textContent = words;
    box.replaceChildren(text);
    if (final) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = mark() ? "Open the page as it was kept" : "Open the page again";
      button.addEventListener("click", reopen);
      box.append(button);
    }
    box.hidden = false;
  }

  function hide() {
    if (box.hidden) return;
    box.hidden = true;
    delete box.dataset.words;
    box.replaceChildren();
  }

  function reopen() {
    const query = new URLSearchParams(location.search), key = mark();
    if (key) query.set("kept", key);
    leaving = true;
    // to the same address, a browser would only scroll
    if (`?${query}` === location.search || !key) location.reload();
    else location.assign(`${location.pathname}?${query}`);
  }

  function lost(words) {
    over = true;
    clearTimeout(timer);
    clearTimeout(patience);
    show(`This page has lost its session: ${words} ${KEPT}`.trim(), true);
  }

  // -- what happened? -----------------------------------------------------------------------------------------------
  async function ask() {
    const { baseUrl = "/", kernelId = kernel } = settings();
    const stop = new AbortController();
    const late = setTimeout(() => stop.abort(), SLOW);
    try {
      const answer = await fetch(`${baseUrl}voila/session/${kernelId}`, { signal: stop.signal, cache: "no-store" });
      if (answer.status === 401 || answer.status === 403) return { refused: true };
      return answer.ok ? await answer.json() : {};
    } catch {
      return {};
    } finally {
      clearTimeout(late);
    }
  }

  function judge(told) {
    const lasted = now() - since;
    if (told.refused) return lost("the server was started anew, and asks who you are.");
    if (told.running === undefined) {
      answered = 0;
      if (lasted > PATIENCE) silence();
      return undefined;
    }
    answered = answered || now();
    if (told.running) {
      if (open) return calm();
      if (now() - answered > RECONNECTING) show("The connection was away for too long.", true);
      else hide();
      return undefined;
    }
    if (told.said) {
      // a page that is left asks for the end of its kernel itself
      if (told.why !== "closed" || lasted > LEAVING) lost(`${told.said}.`);
      return undefined;
    }
    const older = told.uptime < (now() - begun) / 1000;
    return lost(older ? "the server was started anew." : "the server does not know it any more.");
  }

  // also while a question is under way: a network that swallows everything answers nothing, not even no
  function silence() {
    if (over || leaving || !since || answered) return;
    show(`The server does not answer. This page goes on asking, and goes on by itself if it can. ${KEPT}`, false);
  }

  function calm() {
    since = answered = 0;
    clearTimeout(timer);
    clearTimeout(patience);
    hide();
  }

  async function look() {
    if (over || leaving || !since) return;
    judge(await ask());
    // a class that lost its server must not ask all at once
    if (!over && since) timer = setTimeout(look, now() - since < PATIENCE ? AGAIN : SELDOM * (1 + Math.random()));
  }

  function worry() {
    if (over || since) return;
    since = now();
    timer = setTimeout(look, SOON);
    patience = setTimeout(silence, PATIENCE);
  }

  // -- the connection -----------------------------------------------------------------------------------------------
  const Plain = window.WebSocket;
  window.WebSocket = class extends Plain {
    constructor(...given) {
      super(...given);
      const found = CHANNELS.exec(String(given[0]));
      if (!found) return;
      kernel = found[1];
      let mine = 0;
      this.addEventListener("open", () => {
        mine = 1;
        open += 1;
      });
      this.addEventListener("close", () => {
        open -= mine;
        mine = 0;
        worry();
      });
    }
  };
  window.addEventListener("offline", worry);
  window.addEventListener("pagehide", () => { leaving = true; });
  window.addEventListener("pageshow", () => { leaving = false; });
  document.addEventListener("DOMContentLoaded", () => {
    box = document.createElement("div");
    box.id = "ge-lost";
    box.setAttribute("role", "alert");
    box.hidden = true;
    document.body.prepend(box);
    if (!document.getElementById("jupyter-config-data")) {
      const whole = document.getElementById("rendered_cells");
      if (whole) show("This page did not arrive whole.", true);
    }
  });
})();
