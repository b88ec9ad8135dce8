// What every view of this folder shares. Nothing here keeps state that the model lacks, and every listener is removed.

/** Resolves after `ms`, or as soon as `early` does. */
function wait(ms, early) {
  let timer;
  const slept = new Promise((done) => (timer = setTimeout(done, ms)));
  return Promise.race([slept, early]).finally(() => clearTimeout(timer));
}

/**
 * What was drawn and not yet answered, by view, for all views of the page: `busy` of them are drawing at this moment.
 * When the last is done, one message answers for all; at the latest after 50 ms.
 */
const answers = (globalThis.__gatingExplorerAnswers ??= { busy: 0, drawn: new Map(), timer: 0 });

function answer(model, number, error) {
  answers.drawn.set(model.get("ident"), { model, answer: [number, error] });
  if (!answers.busy) sendAnswers();
  else answers.timer ||= setTimeout(sendAnswers, 50);
}

function sendAnswers() {
  clearTimeout(answers.timer);
  answers.timer = 0;
  const homes = new Map();
  for (const [ident, { model, answer }] of answers.drawn) {
    const home = ident.split(":")[0];
    if (!homes.has(home)) homes.set(home, { model, frames: {} });
    homes.get(home).frames[ident] = answer;
  }
  answers.drawn.clear();
  for (const { model, frames } of homes.values()) model.send({ kind: "drawn", frames });
}

/** "light" or "dark": what the model asks for, else the theme of JupyterLab or Voila, else the system's. */
function themeOf(model) {
  const asked = model.get("theme");
  if (asked !== "auto") return asked;
  const light = document.body.dataset.jpThemeLight;
  if (light !== undefined) return light === "false" ? "dark" : "light";
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

const LARGE = 1.35; // how much larger letters are on a page that is marked for a projector

/** How large letters are: what the model asks for, or what the page's class asks for. */
function scaleOf(model, el) {
  return Math.max(model.get("scale") ?? 1, el.closest(".ge-large") ? LARGE : 1);
}

/** Gives the elements the theme and the scale of letters that their style sheets ask for; returns the scale. */
function dress(model, ...elements) {
  const [theme, scale] = [themeOf(model), scaleOf(model, elements[0])];
  for (const one of elements) {
    if (one.dataset.theme !== theme) one.dataset.theme = theme;
    if (one.dataset.scale === String(scale)) continue;
    one.dataset.scale = scale;
    one.style.setProperty("--ge-scale", scale);
  }
  return scale;
}

/**
 * Calls draw(frame) for the newest frame, at most once per animation frame, and acknowledges each frame it drew.
 * A view that is off the screen, or without a size, only acknowledges, and slowly, so that Python sends less; it draws
 * when it comes near the screen. Also redraws when the size or the theme changes, and on ask(). Returns { ask, stop }.
 */
function follow(model, el, draw) {
  let asked = 0, busy = false, stale = false, gone = false, onScreen = false, missed = false, width = 0, answered = -1;
  let appeared = () => {};
  const run = async () => {
    asked = 0;
    if (gone) return;
    busy = true;
    stale = false;
    answers.busy--;
    const hidden = () => !onScreen || !el.clientWidth;
    if (hidden()) await wait(1000, new Promise((done) => (appeared = done)));
    missed = hidden();
    const frame = model.get("frame");
    let error = "";
    answers.busy++;
    try {
      if (!missed && !gone) await draw(frame);
    } catch (problem) {
      error = String(problem?.message ?? problem);
      console.error(problem);
    }
    busy = false;
    answers.busy--;
    if (gone) return;
    if (frame.number !== answered) answer(model, frame.number, error);
    answered = frame.number;
    if (stale) ask();
  };
  const ask = () => {
    if (busy) stale = true;
    else if (!asked) {
      answers.busy++;
      asked = requestAnimationFrame(run);
    }
  };
  let home = null; // the page's element that carries its classes; known once the view is in the page
  const resized = new ResizeObserver(() => {
    if (el.clientWidth === width) return;
    width = el.clientWidth;
    if (!home && (home = el.closest(".ge-page"))) page.observe(home, { attributes: true, attributeFilter: ["class"] });
    appeared();
    ask();
  });
  const seen = new IntersectionObserver(
    (entries) => {
      onScreen = entries.at(-1).isIntersecting;
      if (!onScreen) return;
      appeared();
      if (missed) ask();
    },
    { rootMargin: "300px" },
  );
  const page = new MutationObserver(() => ask());
  const system = matchMedia("(prefers-color-scheme: dark)");
  resized.observe(el);
  seen.observe(el);
  page.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] });
  system.addEventListener("change", ask);
  const heard = ["change:frame", "change:theme", "change:label", "change:scale"];
  for (const event of heard) model.on(event, ask);
  ask();
  const stop = () => {
    gone = true;
    appeared();
    if (asked) {
      cancelAnimationFrame(asked);
      answers.busy--;
    }
    resized.disconnect();
    seen.disconnect();
    page.disconnect();
    system.removeEventListener("change", ask);
    for (const event of heard) model.off(event, ask);
  };
  return { ask, stop };
}

const TYPES = {
  int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array,
  int32: Int32Array, uint32: Uint32Array, float32: Float32Array, float64: Float64Array,
};

/** The bytes that came over the comm (a DataView, at any offset) as a typed array of their own. */
function typed(bytes, dtype) {
  const Type = TYPES[dtype];
  return new Type(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}

/** An element with a class and, as text only, a content. */
function make(tag, className = "", text = "") {
  const el = document.createElement(tag);
  if (className) el.className = className;
  if (text) el.textContent = text;
  return el;
}
