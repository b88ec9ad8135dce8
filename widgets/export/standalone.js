
// Starts the page: unpacks the data, gives each view a stand-in for its model, and has its own module draw it.

const BYTES = "base64:";
const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const unzip = (bytes) => new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
const held = (id) => bytesOf(document.getElementById(id).textContent);

/** JSON with the bytes that stand in it as text. */
function revive(key, value) {
  if (value === null || typeof value !== "object" || !(BYTES in value)) return value;
  const bytes = bytesOf(value[BYTES]);
  return new DataView(bytes.buffer);
}

/** What a view's module expects of a model; its one correspondent is this page. */
function standIn(traits, csv) {
  const listeners = new Map();
  const of = (event) => listeners.get(event) ?? listeners.set(event, new Set()).get(event);
  const emit = (event, ...content) => [...of(event)].forEach((listener) => listener(...content));
  const answers = {
    "want-stamp": () => [{ kind: "stamp", stamp: traits.stamp }, []],
    export: async () => [{ kind: "exported" }, [new DataView(await unzip(bytesOf(csv)).arrayBuffer())]],
  };
  const answer = async ({ kind, request }) => {
    const [content, buffers] = (await answers[kind]?.()) ?? [];
    if (content) emit("msg:custom", { ...content, request }, buffers);
  };
  return {
    get: (name) => traits[name],
    set: (name, value) => {
      if (traits[name] === value) return;
      traits[name] = value;
      emit(`change:${name}`);
    },
    save_changes: () => {},
    send: (content) => void answer(content),
    on: (event, listener) => of(event).add(listener),
    off: (event, listener) => of(event).delete(listener),
  };
}

/** plotly.js puts itself into the page as a global, where the charts look for it first. */
async function loadLibrary() {
  if (!document.getElementById("library").textContent) return;
  const script = document.createElement("script");
  script.textContent = await unzip(held("library")).text();
  document.head.append(script);
}

function followTheme() {
  const button = document.getElementById("theme");
  const name = () => (button.textContent = document.body.dataset.jpThemeLight === "true" ? "Dark theme" : "Light theme");
  button.onclick = () => {
    document.body.dataset.jpThemeLight = String(document.body.dataset.jpThemeLight !== "true");
    name();
  };
  name();
}

async function start() {
  followTheme();
  const { views, constants } = JSON.parse(await unzip(held("data")).text(), revive);
  await loadLibrary();
  for (const el of document.querySelectorAll("[data-view]")) {
    const { class: kind, traits, csv } = views[el.dataset.view];
    MODULES[kind].render({ model: standIn({ ident: `page:${el.dataset.view}`, ...constants[kind], ...traits }, csv), el });
  }
}

start().catch((error) => {
  const note = document.createElement("p");
  note.setAttribute("role", "alert");
  note.textContent = `The pictures could not be drawn: ${error.message}`;
  document.querySelector("main").prepend(note);
  console.error(error);
});
