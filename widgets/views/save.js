// The Save menu of a view. Nothing but a button exists until it is pressed: a frame never waits for it.

const KINDS = {
  png: ["PNG picture", "image/png"],
  svg: ["SVG drawing", "image/svg+xml"],
  csv: ["CSV table", "text/csv;charset=utf-8"],
  parquet: ["Parquet table", "application/vnd.apache.parquet"],
};
const PAPER = { light: "#ffffff", dark: "#111111" };
const INK = { light: "#59636e", dark: "#9da7b3" };

/** A file name that is safe everywhere: letters and digits of any script, joined by hyphens. */
function fileName(label, kind) {
  const name = String(label).normalize("NFKC").toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+/, "");
  return `${[...name].slice(0, 60).join("").replace(/-+$/, "") || "figure"}.${kind}`;
}

function saveBlob(blob, name) {
  const link = make("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const requests = { newest: 0 };

/** Sends `content` and resolves with [message, buffers] of the answer that carries the same number. */
function request(model, content, patience) {
  const number = `${++requests.newest}-${Math.random()}`;
  return new Promise((done, fail) => {
    const heard = (message, buffers) => message.request === number && (stop(), done([message, buffers]));
    const late = () => (stop(), fail(new Error("Python does not answer: it is busy, or the page has lost it.")));
    const timer = setTimeout(late, patience);
    const stop = () => (clearTimeout(timer), model.off("msg:custom", heard));
    model.on("msg:custom", heard);
    model.send({ ...content, request: number });
  });
}

/** Where the numbers come from: the stamp as Python has it now, or as the page last heard of it. */
const stampOf = (model) =>
  request(model, { kind: "want-stamp" }, 1000).then(([{ stamp }]) => String(stamp), () => model.get("stamp"));

async function tableOf(model, format) {
  const [answer, buffers] = await request(model, { kind: "export", format }, 60_000);
  if (answer.error) throw new Error(answer.error);
  return new Blob([buffers[0]], { type: KINDS[format][1] });
}

/** `pictures`: what the page makes itself, {format: async (stamp) => Blob}; the rest is asked of Python. */
function saveMenu(model, pictures) {
  const box = make("div", "ge-save");
  const opener = make("button", "ge-save-open", "Save");
  const note = make("div", "ge-save-note");
  let menu = null;
  opener.type = "button";
  opener.setAttribute("aria-haspopup", "menu");
  note.setAttribute("role", "status");
  box.append(opener, note);

  const name = () => {
    opener.setAttribute("aria-label", `Save ${model.get("label") || "figure"}`);
    box.hidden = !model.get("saves").length;
  };
  const close = (refocus) => {
    const gone = menu;
    menu = null; // first: an item that leaves the page loses the focus, which closes the menu again
    gone?.remove();
    opener.setAttribute("aria-expanded", "false");
    if (refocus) opener.focus();
  };
  const tell = (text, quiet) => {
    note.textContent = text;
    note.classList.toggle("ge-unseen", quiet);
  };
  const choose = async (format) => {
    close(true);
    tell(`Making the ${KINDS[format][0]}`, true);
    try {
      if (!model.get("frame").number) throw new Error("There is nothing to save yet.");
      const blob = await (pictures[format]?.(await stampOf(model)) ?? tableOf(model, format));
      const file = fileName(model.get("label"), format);
      saveBlob(blob, file);
      tell(`Saved as ${file}`, true);
    } catch (error) {
      tell(`Not saved. ${error.message}`, false);
    }
  };
  const item = (format) => {
    const one = make("button", "", KINDS[format][0]);
    one.type = "button";
    one.tabIndex = -1;
    one.setAttribute("role", "menuitem");
    one.onclick = () => choose(format);
    return one;
  };
  const show = () => {
    tell("", true);
    menu = make("div", "ge-save-menu");
    menu.setAttribute("role", "menu");
    menu.setAttribute("aria-label", opener.getAttribute("aria-label"));
    menu.append(...model.get("saves").filter((format) => format in KINDS).map(item));
    // a press on an item must not take the focus first: losing it closes the menu
    menu.onmousedown = (event) => event.preventDefault();
    box.append(menu);
    opener.setAttribute("aria-expanded", "true");
    menu.firstChild?.focus();
  };
  const keys = (event) => {
    if (event.key === "Escape") {
      if (menu) close(true);
      return tell("", true);
    }
    if (!menu && event.key === "ArrowDown" && event.target === opener) return event.preventDefault(), show();
    if (!menu || event.target === opener) return;
    const [items, at] = [[...menu.children], [...menu.children].indexOf(event.target)];
    const to = { ArrowDown: at + 1, ArrowUp: at - 1 + items.length, Home: 0, End: items.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    items[to % items.length].focus();
  };
  opener.onmousedown = (event) => menu && event.preventDefault();
  opener.onclick = () => (menu ? close(true) : show());
  note.onclick = () => tell("", true);
  box.addEventListener("keydown", keys);
  box.addEventListener("focusout", (event) => menu && !box.contains(event.relatedTarget) && close(false));
  model.on("change:label", name);
  model.on("change:saves", name);
  opener.setAttribute("aria-expanded", "false");
  tell("", true);
  name();
  const stop = () => (model.off("change:label", name), model.off("change:saves", name));
  return { el: box, stop };
}

// ---- pictures with the stamp below them ----------------------------------------------------------------------------

/** Lines of at most `most` characters; an entity such as &lt; is one character and is never cut. */
function wrap(text, most) {
  const letters = (word) => word.match(/&[#\w]+;|./gsu) ?? [];
  const lines = [];
  let room = 0;
  for (const word of String(text ?? "").split(" ").filter(Boolean)) {
    const units = letters(word);
    if (lines.length && units.length < room) {
      lines[lines.length - 1] += ` ${word}`;
      room -= units.length + 1;
      continue;
    }
    while (units.length > most) lines.push(units.splice(0, most).join(""));
    lines.push(units.join(""));
    room = most - units.length;
  }
  return lines;
}

const stampLines = (stamp, width) => wrap(stamp, Math.max(8, Math.floor((width - 16) / 6)));
const stampHeight = (lines) => (lines.length ? 10 + 14 * lines.length : 0);

/** An SVG (text, width x height) with the stamp in small letters below what it shows. */
function stampedSvg(text, { width, height }, stamp, theme) {
  const svg = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
  const add = (tag, attributes, content = "") => {
    const one = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value);
    one.textContent = content;
    svg.append(one);
  };
  const lines = stampLines(stamp, width);
  const total = height + stampHeight(lines);
  svg.setAttribute("height", total);
  svg.setAttribute("viewBox", `0 0 ${width} ${total}`);
  add("rect", { x: 0, y: height, width, height: total - height, fill: PAPER[theme] });
  const look = { x: 8, fill: INK[theme], "font-size": 10, "font-family": "system-ui, sans-serif" };
  lines.forEach((line, i) => add("text", { ...look, y: height + 12 + 14 * i }, line));
  return { text: new XMLSerializer().serializeToString(svg), width, height: total };
}

/** An SVG as a PNG of twice its size. */
async function toPng({ text, width, height }) {
  const image = new Image();
  image.src = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
  await image.decode();
  URL.revokeObjectURL(image.src);
  const canvas = make("canvas");
  Object.assign(canvas, { width: 2 * width, height: 2 * height });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return blobOf(canvas);
}

function blobOf(canvas) {
  const made = (done, fail) => canvas.toBlob((blob) => (blob ? done(blob) : fail(new Error("The picture is too large."))), "image/png");
  return new Promise(made);
}
