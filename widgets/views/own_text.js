// A reader's own texts: pasted or from files, measured here, before anything is kept in the page or sent.

const ACCEPT = ".txt,.md,.rst,.py,.js,.ts,.c,.h,.cpp,.java,.rs,.go,.html,.css,.json,.yaml,.yml,.toml,.csv,.tsv,.tex,.log,.srt,text/*";
const PASTED = "pasted text";
const SETTLED = 250; // ms without a key until the pasted text is measured

const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

/** Resolves with the bytes of a file that is text, else throws a sentence about it. */
async function textOf(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const reason = bytes.includes(0) ? "it holds NUL bytes" : isUtf8(bytes) ? "" : "it is not UTF-8";
  if (reason) throw new Error(`${short(file.name)} is not a text file: ${reason}.`);
  return bytes;
}

function isUtf8(bytes) {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return true;
  } catch {
    return false;
  }
}

const short = (name) => (name.length > 60 ? `${name.slice(0, 59)}…` : name);

let fields = 0; // numbers the fields of a page, so that each label finds its own

function render({ model, el }) {
  const root = make("div", "ge-own");
  const [area, files] = [make("textarea"), make("input")];
  const [hint, list, alarm, use] = [make("p", "ge-own-hint"), make("ul"), make("div", "ge-own-alert"), make("button", "ge-own-use", "Use this text")];
  const said = make("p", "ge-own-hint");
  const labelled = (field, text) => {
    const [box, label] = [make("div"), make("label", "", text)];
    field.id = `ge-own-${++fields}`;
    label.htmlFor = field.id;
    box.append(label, field);
    return box;
  };
  Object.assign(files, { type: "file", multiple: true, accept: ACCEPT });
  Object.assign(area, { spellcheck: false, rows: 4 });
  hint.id = `ge-own-${++fields}`;
  area.setAttribute("aria-describedby", hint.id);
  files.setAttribute("aria-describedby", hint.id);
  list.setAttribute("aria-label", "Texts to be used");
  alarm.setAttribute("role", "alert");
  said.setAttribute("role", "status");
  use.type = "button";
  root.append(labelled(area, "Paste a text"), labelled(files, "Or choose text files"), hint, list, alarm, use, said);
  el.append(root);

  let chosen = []; // {name, bytes} from files
  let pasted = null; // bytes of the area, or null when it is empty
  let measuring = 0;

  const limits = () => ({ most: model.get("most_bytes"), fewest: model.get("fewest_bytes"), texts: model.get("most_texts") });
  const all = () => (pasted ? [...chosen, { name: PASTED, bytes: pasted }] : chosen);
  const total = (but = null) => all().reduce((sum, one) => sum + (one === but ? 0 : one.bytes.length), 0);
  const warn = (sentence) => (alarm.textContent = sentence);
  const say = (sentence) => (said.textContent = sentence);

  /** Why a text of `size` bytes cannot come to the others; "" if it can. */
  const objection = (name, size, others, number) => {
    const { most, fewest, texts } = limits();
    const has = `${short(name)} has ${count(size, "byte")}`;
    if (number > texts) return `${short(name)} is one too many: at most ${count(texts, "text")} can be used.`;
    if (size > most) return `${has}; at most ${most.toLocaleString("en")} can be used.`;
    if (size + others > most) return `${has}; with the other texts that would be more than the ${most.toLocaleString("en")} that can be used.`;
    return size < fewest ? `${has}; a text needs at least ${fewest.toLocaleString("en")}.` : "";
  };

  const drawHint = () => {
    const { most, fewest, texts } = limits();
    hint.textContent = `At most ${count(texts, "text")}, together at most ${count(most, "byte")}; each at least ${fewest.toLocaleString("en")}. Nothing is sent before you press the button.`;
  };

  const drawList = () => {
    const rows = all().map((one) => {
      const row = make("li");
      const remove = make("button", "", "Remove");
      remove.type = "button";
      remove.setAttribute("aria-label", `Remove ${one.name}`);
      remove.onclick = () => {
        if (chosen.includes(one)) chosen = chosen.filter((other) => other !== one);
        else area.value = "", (pasted = null);
        warn("");
        say(`${short(one.name)} removed`);
        drawList();
        (list.querySelector("button") ?? area).focus();
      };
      row.append(make("span", "ge-own-name", short(one.name)), make("span", "ge-own-size", count(one.bytes.length, "byte")), remove);
      return row;
    });
    list.replaceChildren(...rows);
  };

  const measure = () => {
    clearTimeout(measuring);
    measuring = 0;
    const before = Boolean(pasted);
    pasted = area.value.trim() ? new TextEncoder().encode(area.value) : null;
    if (before || pasted) drawList();
  };

  /** Refuses what is too large before the field has to lay it out. */
  const intercept = (event, text) => {
    const kept = area.value.length - (area.selectionEnd - area.selectionStart);
    if (text.length + kept <= limits().most) return;
    event.preventDefault();
    refusePaste(new Blob([text]).size, kept);
  };
  const refusePaste = (size, kept = 0) => warn(objection("The pasted text", size, total(pasted ? all().at(-1) : null) + kept, 1));
  area.addEventListener("paste", (event) => intercept(event, event.clipboardData?.getData("text/plain") ?? ""));
  area.addEventListener("beforeinput", (event) => event.data && intercept(event, event.data));
  area.addEventListener("input", () => {
    warn("");
    say("");
    clearTimeout(measuring);
    measuring = setTimeout(measure, SETTLED);
    if (area.value.length <= limits().most) return;
    const { size } = new Blob([area.value]);
    area.value = "";
    measure();
    refusePaste(size);
  });

  const take = async (given) => {
    warn("");
    say("");
    const refused = [];
    for (const file of given) {
      const names = all().length;
      const reason = objection(file.name, file.size, total(), names + 1);
      if (names >= limits().texts) {
        refused.push(reason);
        break;
      }
      try {
        if (reason) throw new Error(reason);
        chosen.push({ name: file.name, bytes: await textOf(file) });
      } catch (error) {
        refused.push(error.message);
      }
    }
    drawList();
    warn(refused.slice(0, 3).join(" "));
  };
  files.onchange = async () => {
    const given = [...files.files];
    await take(given);
    files.value = "";
  };
  root.addEventListener("dragover", (event) => event.preventDefault());
  root.addEventListener("drop", (event) => {
    if (event.dataTransfer.files.length) event.preventDefault(), take([...event.dataTransfer.files]);
    else if (event.target === area) intercept(event, event.dataTransfer.getData("text/plain"));
    else event.preventDefault();
  });

  use.onclick = () => {
    measure();
    warn("");
    const texts = all();
    if (!texts.length) return warn("Paste a text or choose a file first."), area.focus();
    const reason = texts.map((one, i) => objection(one.name, one.bytes.length, total(one), i + 1)).find(Boolean);
    if (reason) return warn(reason);
    say("Sent …");
    model.send({ kind: "texts", names: texts.map(({ name }) => name.slice(0, 200)) }, undefined, texts.map(({ bytes }) => bytes));
  };

  const heard = (message) => {
    if (message.kind !== "answer") return;
    warn(message.error);
    say(message.error ? "" : message.done);
  };
  const look = () => dress(model, root);
  const system = matchMedia("(prefers-color-scheme: dark)");
  const page = new MutationObserver(look);
  page.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] });
  const shown = new ResizeObserver(look); // the page's class is known once this is in the page
  shown.observe(root);
  system.addEventListener("change", look);
  const observed = { "change:theme": look, "change:scale": look, "msg:custom": heard };
  for (const limit of ["most_bytes", "fewest_bytes", "most_texts"]) observed[`change:${limit}`] = drawHint;
  for (const [event, handler] of Object.entries(observed)) model.on(event, handler);
  drawHint();
  look();
  return () => {
    clearTimeout(measuring);
    page.disconnect();
    shown.disconnect();
    system.removeEventListener("change", look);
    for (const [event, handler] of Object.entries(observed)) model.off(event, handler);
  };
}

export default { render };
