// A chart: rebuilds the arrays of the newest frame and hands the figure to Plotly.react.

const CONFIG = {
  // a drag zooms, a double click goes back, and the Save menu makes pictures that say where their numbers come from;
  // plotly's own bar would cover titles, and newer versions offer to upload the chart in it
  displayModeBar: false,
  typesetMath: false,
  plotlyServerURL: "",
  doubleClick: "reset+autosize",
};

/** The figure with typed arrays in the places that stand for them; two-dimensional ones as rows. */
function rebuild(value, arrays) {
  if (Array.isArray(value)) return value.map((inner) => rebuild(inner, arrays));
  if (value === null || typeof value !== "object") return value;
  if ("array" in value && "dtype" in value) return rows(typed(arrays[value.array], value.dtype), value.shape);
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, rebuild(inner, arrays)]));
}

function rows(flat, [height, width]) {
  if (width === undefined) return flat;
  return Array.from({ length: height }, (_, row) => flat.subarray(row * width, (row + 1) * width));
}

/** Plotly clips a title that is too long: break it and its quiet second line, and make room above the axes. */
function fitTitle(layout, width, scale) {
  const [, title, subtitle] = String(layout.title?.text ?? "").match(/^(.*?)(?:<br><span[^>]*>(.*)<\/span>)?$/s);
  const [above, below] = [wrap(title, Math.floor((width - SAVE) / 8.2 / scale)), wrap(subtitle, Math.floor(width / 6.5 / scale))];
  if (!above.length) return layout;
  const quiet = below.map((line) => `<span style="font-size:${Math.round(12 * scale)}px">${line}</span>`);
  const key = layout.annotations?.some(({ yref, y, yanchor }) => yref === "paper" && y === 1 && yanchor === "bottom");
  return {
    ...layout,
    title: { ...layout.title, text: [...above, ...quiet].join("<br>") },
    margin: { ...layout.margin, t: 16 + scale * (20 * (above.length + below.length) + (key ? 14 : 0)) },
  };
}

/** A trace that asks for colour number n of the theme gets it. */
function paint(trace, template) {
  const number = trace.meta?.colour;
  if (number === undefined) return trace;
  const colours = template.layout.colorway;
  return { ...trace, line: { ...trace.line, color: colours[number % colours.length] } };
}

const SAVE = 68; // px at the upper right that belong to the Save button

/** A template or layout whose letters are `scale` times as large. */
function enlarge(value, scale) {
  if (scale === 1 || value === null || typeof value !== "object" || ArrayBuffer.isView(value)) return value;
  if (Array.isArray(value)) return value.map((inner) => enlarge(inner, scale));
  const larger = (font) => (Number.isFinite(font?.size) ? { ...font, size: Math.round(font.size * scale) } : font);
  const change = ([key, inner]) => [key, /font$/.test(key) ? larger(inner) : enlarge(inner, scale)];
  return Object.fromEntries(Object.entries(value).map(change));
}

/** A trace whose numbers in cells or at points grow with the rest, where there is room. */
function lettered(trace, scale) {
  return trace.textfont ? { ...trace, ...enlarge({ textfont: trace.textfont }, scale) } : trace;
}

/** What plotly is given: the frame's figure under the page's template, for a box of `width` px. */
function compose(frame, template, width, scale) {
  const figure = rebuild(frame.figure ?? { data: [], layout: {} }, frame.arrays ?? []);
  const layout = fitTitle(enlarge(figure.layout, scale), width, scale);
  const height = Math.round((layout.height ?? 300) * (0.5 + 0.5 * scale));
  return {
    data: figure.data.map((trace) => paint(lettered(trace, width < 480 ? 1 : scale), template)),
    layout: { ...layout, template, width, height, autosize: false },
  };
}

const FULL_EVERY = 6000; // ms between full drawings while frames arrive, and up to half more, so that charts take turns
const SETTLED = 1500; // ms without a frame until plotly draws what was patched; a pointer makes it draw at once
const SOONEST = 700; // ms between full drawings when names or ranges change; a fifth of it under the pointer

function render({ model, el }) {
  const view = make("div", "ge-view");
  const box = make("div", "ge-chart");
  const plot = make("div");
  box.style.cssText = "width:100%;min-width:0;overflow:hidden;min-height:300px";
  box.append(plot);
  const svg = async (stamp) => {
    const { data, layout } = shown();
    const [theme, { width, height }] = [themeOf(model), layout];
    const paper = { data, layout: { ...layout, paper_bgcolor: PAPER[theme] } };
    const text = await (await plotly(model)).toImage(paper, { format: "svg", width, height, imageDataOnly: true });
    return stampedSvg(text, layout, stamp, theme);
  };
  const pictures = {
    svg: async (stamp) => new Blob([(await svg(stamp)).text], { type: "image/svg+xml" }),
    png: async (stamp) => toPng(await svg(stamp)),
  };
  const save = saveMenu(model, pictures);
  view.append(box, save.el);
  el.append(view);
  let loaded; // the promise of plotly.js that drew here, for the clean-up
  let full = { look: "", key: "", at: 0, until: 0 }; // what plotly drew last, when, and how long it may be patched
  let hovered = false;
  let settling = 0;

  const templates = new Map(); // by theme and scale
  const templateOf = (theme, scale) => {
    const name = `${theme} ${scale}`;
    if (!templates.has(name)) templates.set(name, enlarge(model.get("templates")[theme], scale));
    return templates.get(name);
  };
  const shown = () => {
    const scale = scaleOf(model, box);
    return compose(model.get("frame"), templateOf(themeOf(model), scale), box.clientWidth, scale);
  };
  /** The drawing is one picture with a text; plotly's buttons beside it stay what they are. */
  const describe = (name) => {
    plot.querySelectorAll(".main-svg").forEach((svg, i) => {
      svg.setAttribute(...(i ? ["aria-hidden", "true"] : ["role", "img"]));
      if (!i) svg.setAttribute("aria-label", name);
    });
  };
  const drawFully = async (Plotly, figure, look, key) => {
    await Plotly.react(plot, figure.data, figure.layout, CONFIG);
    const at = performance.now();
    full = { look, key, at, until: at + FULL_EVERY * (1 + Math.random() / 2) };
  };
  /** How long the drawing may stay as patch() can make it, in ms; 0: plotly has to draw now. */
  const patchFor = (figure, look, key) => {
    const [now, soonest] = [performance.now(), hovered ? SOONEST / 5 : SOONEST];
    if (look !== full.look || now > full.until) return 0;
    if (key === full.key && !hovered && patch(plot, figure)) return SETTLED;
    return now < full.at + soonest && patch(plot, figure, true) ? soonest : 0;
  };
  const draw = async (frame) => {
    const name = [model.get("label"), frame.summary].filter(Boolean).join(". ");
    const scale = dress(model, view, save.el);
    if (!frame.number) return;
    const Plotly = await (loaded = plotly(model)).catch((error) => {
      box.textContent = `The chart library could not be loaded: ${error.message}`;
      throw error;
    });
    const figure = shown();
    const look = [themeOf(model), box.clientWidth, figure.layout.height, scale].join();
    const key = skeleton(frame.figure);
    box.style.minHeight = `${figure.layout.height}px`;
    clearTimeout(settling);
    const patched = patchFor(figure, look, key);
    if (patched) settling = setTimeout(refresh, patched);
    else await drawFully(Plotly, figure, look, key);
    describe(name || "chart");
    plot.dataset.frame = frame.number;
  };
  const { ask, stop } = follow(model, box, draw);
  /** Let plotly draw the newest frame: what it tells under the pointer is what it drew itself. */
  const refresh = () => {
    full.until = 0;
    ask();
  };
  const enter = () => {
    hovered = true;
    refresh();
  };
  const leave = () => (hovered = false);
  const heard = async (message) => {
    if (message.kind !== "download" || !(message.format in pictures) || !model.get("frame").number) return;
    saveBlob(await pictures[message.format](await stampOf(model)), fileName(message.name, message.format));
  };
  box.addEventListener("pointerenter", enter);
  box.addEventListener("pointerleave", leave);
  model.on("msg:custom", heard);
  return () => {
    stop();
    save.stop();
    clearTimeout(settling);
    model.off("msg:custom", heard);
    loaded?.then((Plotly) => Plotly.purge(plot), () => {});
  };
}

// ---- plotly.js itself: loaded once a page, whoever asks first ------------------------------------------------------

/** The promise of plotly.js in the version that Python names; all charts of a page share it. */
function plotly(model) {
  const { version } = model.get("bundle");
  const loads = (globalThis.__gatingExplorerPlotly ??= {});
  loads[version] ??= load(model).catch((error) => {
    delete loads[version];
    throw error;
  });
  return loads[version];
}

async function load(model) {
  const { version, sha256 } = model.get("bundle");
  const ways = { page: fromPage, server: fromServer, cache: fromCache, comm: fromKernel };
  let reason = "no way to get it";
  for (const [source, way] of Object.entries(ways)) {
    try {
      const Plotly = await way(model, version, sha256);
      if (!Plotly) continue;
      model.send({ kind: "have-bundle", source });
      return Plotly;
    } catch (error) {
      reason = error.message;
      console.warn(`plotly.js not from ${source}:`, error);
    }
  }
  throw new Error(reason);
}

function fromPage(model, version) {
  return globalThis.Plotly?.version === version ? globalThis.Plotly : null;
}

function fromServer(model, version, sha256) {
  const url = model.get("bundle_url");
  if (!url) return null;
  const page = JSON.parse(document.getElementById("jupyter-config-data")?.textContent ?? "{}");
  const base = new URL(page.baseUrl ?? "/", location.href);
  return runScript(new URL(url, base).href, sha256);
}

async function fromCache(model, version, sha256) {
  const packed = await cached("readonly", (store) => store.get(sha256));
  return packed ? runPacked(packed, sha256) : null;
}

async function fromKernel(model, version, sha256) {
  const packed = await new Promise((done, fail) => {
    const timer = setTimeout(() => fail(new Error("the kernel does not answer")), 60_000);
    const heard = (message, buffers) => {
      if (message.kind !== "bundle") return;
      clearTimeout(timer);
      model.off("msg:custom", heard);
      const bytes = buffers[0];
      done(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    };
    model.on("msg:custom", heard);
    model.send({ kind: "want-bundle" });
  });
  const Plotly = await runPacked(packed, sha256);
  await cached("readwrite", (store) => (store.clear(), store.put(packed, sha256))).catch(() => {});
  return Plotly;
}

async function runPacked(packed, sha256) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const blob = new Blob([await new Response(stream).arrayBuffer()], { type: "text/javascript" });
  const url = URL.createObjectURL(blob);
  return runScript(url, sha256).finally(() => URL.revokeObjectURL(url));
}

/** Runs a classic script whose digest is right; another Plotly that the page already has stays in its place. */
function runScript(url, sha256) {
  const before = globalThis.Plotly;
  const script = make("script");
  const bytes = sha256.match(/../g).map((pair) => parseInt(pair, 16));
  script.integrity = `sha256-${btoa(String.fromCharCode(...bytes))}`;
  script.src = url;
  return new Promise((done, fail) => {
    script.onerror = () => fail(new Error("it was not found, or is not the version that Python has"));
    script.onload = () => {
      const Plotly = globalThis.Plotly;
      if (before) globalThis.Plotly = before;
      done(Plotly);
    };
    document.head.append(script);
  }).finally(() => script.remove());
}

/** One request to the page's IndexedDB; rejects where a browser forbids it (private windows). */
function cached(mode, request) {
  return new Promise((done, fail) => {
    const opening = indexedDB.open("gating-explorer", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("bundles");
    opening.onerror = () => fail(opening.error);
    opening.onsuccess = () => {
      const db = opening.result;
      const transaction = db.transaction("bundles", mode);
      const asked = request(transaction.objectStore("bundles"));
      transaction.oncomplete = () => (db.close(), done(asked.result));
      transaction.onerror = () => (db.close(), fail(transaction.error));
    };
  });
}

export default { render };
