// A question as a form: a legend, radio buttons, check boxes or a number, a button, and what is said about the answer.

let forms = 0; // numbers the forms of a page, so that each group of radio buttons is its own

function render({ model, el }) {
  const number = ++forms;
  const root = make("form", "ge-ask");
  const group = make("fieldset");
  const legend = make("legend");
  const fields = make("div", "ge-ask-fields");
  const send = make("button", "ge-ask-send");
  const said = make("div", "ge-ask-said");
  said.setAttribute("role", "status");
  send.type = "submit";
  root.noValidate = true;
  root.dataset.lmSuppressShortcuts = "true"; // the keys of a notebook are not meant for a form
  group.append(legend, fields);
  root.append(group, send, said);
  el.append(root);

  const kind = () => model.get("kind");
  const inputs = () => [...fields.querySelectorAll("input")];

  function build() {
    legend.innerHTML = model.get("legend"); // made, and escaped, by Python
    fields.replaceChildren(...(kind() === "number" ? [numberField()] : model.get("options").map(choice)));
    fill();
    able();
  }

  function choice(html, i) {
    const [label, input, text] = [make("label"), make("input"), make("span")];
    input.type = kind() === "many" ? "checkbox" : "radio";
    input.name = `ge-ask-${number}`;
    input.value = i;
    text.innerHTML = html;
    label.append(input, text);
    return label;
  }

  function numberField() {
    const [label, input, text] = [make("label"), make("input"), make("span")];
    input.type = "number";
    input.step = "any";
    text.innerHTML = model.get("unit") || "your number";
    label.append(input, text);
    return label;
  }

  function fill() {
    const value = model.get("value");
    if (value === null || value === undefined) return;
    if (kind() === "number") inputs()[0].value = value;
    else inputs().forEach((one, i) => (one.checked = value.includes(i)));
  }

  function read() {
    if (kind() !== "number") return inputs().flatMap((one, i) => (one.checked ? [i] : []));
    return inputs()[0].value === "" ? null : inputs()[0].valueAsNumber;
  }

  function able() {
    send.textContent = model.get("button");
    group.disabled = send.disabled = !model.get("enabled");
    send.hidden = !model.get("enabled");
  }

  function tell() {
    said.dataset.tone = model.get("tone");
    said.innerHTML = model.get("said");
  }

  root.onsubmit = (event) => {
    event.preventDefault();
    const value = read();
    const none = value === null || Number.isNaN(value) || value.length === 0;
    if (none) {
      said.dataset.tone = "wrong";
      said.textContent = kind() === "number" ? "Write a number first." : "Choose an answer first.";
      inputs()[0]?.focus();
    } else model.send({ kind: "answer", value });
  };

  const look = () => dress(model, root);
  const system = matchMedia("(prefers-color-scheme: dark)");
  const page = new MutationObserver(look);
  page.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] });
  const shown = new ResizeObserver(look); // the page's class is known once this is in the page
  shown.observe(root);
  system.addEventListener("change", look);
  const observed = { "change:theme": look, "change:scale": look, "change:enabled": able, "change:button": able, "change:value": fill };
  for (const trait of ["legend", "kind", "options", "unit"]) observed[`change:${trait}`] = build;
  for (const trait of ["said", "tone"]) observed[`change:${trait}`] = tell;
  for (const [event, handler] of Object.entries(observed)) model.on(event, handler);
  build();
  tell();
  look();
  return () => {
    page.disconnect();
    shown.disconnect();
    system.removeEventListener("change", look);
    for (const [event, handler] of Object.entries(observed)) model.off(event, handler);
  };
}

export default { render };
