// The token strip: one span a token and layer, kept from frame to frame; only the class of a changed token is touched.

/** {shape, experts, weights, margins} of a frame, as typed arrays with lookups by place. */
function decode(frame) {
  const [L, B, T, K] = frame.shape;
  const experts = typed(frame.experts, frame.dtype);
  const weights = typed(frame.weights, "uint16");
  const margins = typed(frame.margins, "uint16");
  const place = (l, b, t) => (l * B + b) * T + t;
  const slots = (l, b, t) => {
    const at = place(l, b, t) * K;
    return Array.from({ length: K }, (_, k) => ({ expert: experts[at + k], weight: weights[at + k] * frame.weight_unit }));
  };
  const margin = (l, b, t) => {
    const value = margins[place(l, b, t)];
    return value === 65535 ? null : value * frame.margin_unit;
  };
  return { L, B, T, K, experts, slots, margin };
}

/** The class of a token taken by `first` (its ground) and then `second` (the bar below it); -1: nobody. */
function look(first, second) {
  if (first < 0) return "t drop";
  const pattern = Math.floor(first / 10) % 4;
  return `t e${first % 10}${pattern ? ` p${pattern}` : ""}${second >= 0 ? ` s${second % 10}` : ""}`;
}

/** Colour classes e0..e9 and s0..s9 under the theme's palette. */
function paintRules(inks) {
  const rules = Object.entries(inks).flatMap(([theme, { experts, inks: letters }]) =>
    experts.flatMap((colour, i) => [
      `.ge-strip[data-theme="${theme}"] .e${i}{background-color:${colour};color:${letters[i]}}`,
      `.ge-strip[data-theme="${theme}"] .s${i}{border-bottom-color:${colour}}`,
    ]),
  );
  return make("style", "", rules.join("\n"));
}

function render({ model, el }) {
  const root = make("div", "ge-strip");
  const head = make("div", "ge-strip-head");
  const bar = make("div", "ge-strip-bar");
  const save = saveMenu(model, {});
  const body = make("div");
  const legend = make("ul", "ge-strip-legend");
  const tip = make("div", "ge-strip-tip");
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  head.append(bar, save.el);
  root.append(paintRules(model.get("inks")), head, body, legend, tip);
  el.append(root);

  let built = []; // what the rows were built for
  let rows = []; // {l, b, spans}
  let last = new Int32Array(0); // first and second expert of each span, as they are drawn
  let held = null; // the span that has the tab stop
  let data = null; // the decoded newest frame

  const layers = () => {
    const count = model.get("frame").shape?.[0] ?? 0;
    const chosen = model.get("layer");
    return chosen >= 0 && chosen < count ? [chosen] : Array.from({ length: count }, (_, l) => l);
  };

  /** Rows for the layers shown and the texts; runs when one of these changed. */
  const build = () => {
    const names = model.get("names");
    const [texts, sequences, shown] = [model.get("tokens"), model.get("sequence_names"), layers()];
    rows = [];
    held = null;
    body.replaceChildren();
    for (const l of shown) {
      const block = make("div");
      block.setAttribute("role", "rowgroup");
      block.setAttribute("aria-label", names[l] ?? `layer ${l}`);
      // to a screen reader the group carries the name: a heading has no place inside a grid
      const title = make("div", "ge-strip-layer", names[l] ?? `layer ${l}`);
      title.setAttribute("aria-hidden", "true");
      if (model.get("frame").shape[0] > 1) block.append(title);
      for (const [b, text] of texts.entries()) block.append(row(l, b, text, sequences[b] ?? ""));
      body.append(block);
    }
    hold(rows[0]?.spans[0]);
    last = new Int32Array(2 * rows.reduce((total, { spans }) => total + spans.length, 0)).fill(-9);
  };

  const row = (l, b, text, name) => {
    const line = make("div", "ge-strip-row");
    const label = make("span", "ge-strip-name", name);
    const strip = make("div", "ge-strip-text");
    label.title = name;
    label.setAttribute("role", "rowheader");
    line.setAttribute("role", "row");
    if (model.get("sequence_names").length) line.append(label);
    const spans = text.map((token) => {
      const span = make("span", "t none", token);
      span.setAttribute("role", "gridcell");
      span.tabIndex = -1;
      return span;
    });
    strip.append(...spans);
    line.append(strip);
    rows.push({ l, b, spans });
    return line;
  };

  const hold = (span) => {
    if (held) held.tabIndex = -1;
    held = span ?? null;
    if (held) held.tabIndex = 0;
  };

  const paint = () => {
    const { B, T, K, experts } = data;
    let n = 0;
    for (const { l, b, spans } of rows) {
      for (let t = 0; t < spans.length; t++, n += 2) {
        const at = ((l * B + b) * T + t) * K;
        let first = -1, second = -1;
        for (let k = 0; k < K; k++) {
          const expert = experts[at + k];
          if (expert < 0) continue;
          if (first < 0) first = expert;
          else if (second < 0) second = expert;
        }
        if (last[n] === first && last[n + 1] === second) continue;
        last[n] = first;
        last[n + 1] = second;
        spans[t].className = look(first, second);
        spans[t].dataset.e = first < 0 ? "–" : first;
      }
    }
  };

  const drawBar = () => {
    const names = model.get("names");
    const button = (text, pressed, action) => {
      const one = make("button", "", text);
      one.type = "button";
      one.setAttribute("aria-pressed", String(pressed));
      one.onclick = action;
      return one;
    };
    const choose = (layer) => () => (model.set("layer", layer), model.save_changes());
    const several = (model.get("frame").shape?.[0] ?? 0) > 1;
    const chosen = layers().length > 1 ? -1 : model.get("layer");
    const buttons = several ? [button("all layers", chosen < 0, choose(-1)), ...names.map((name, l) => button(name, chosen === l, choose(l)))] : [];
    const number = button("numbers", model.get("numbers"), () => (model.set("numbers", !model.get("numbers")), model.save_changes()));
    const focused = [...bar.children].indexOf(document.activeElement);
    bar.replaceChildren(...buttons, make("span", "ge-gap"), number);
    if (focused >= 0) bar.children[focused]?.focus();
    root.classList.toggle("numbers", model.get("numbers"));
  };

  const drawLegend = () => {
    const items = Array.from({ length: model.get("n_experts") }, (_, e) => {
      const item = make("li");
      item.append(make("span", look(e, -1), String(e)));
      return item;
    });
    const dropped = make("li");
    dropped.append(make("span", "t drop", "a"), make("span", "", "no expert (dropped)"));
    const head = make("li", "", "expert");
    const second = (model.get("frame").shape?.[3] ?? 1) > 1 ? [make("li", "", "bar below a token: its second expert")] : [];
    legend.replaceChildren(head, ...items, dropped, ...second);
  };

  const draw = (frame) => {
    dress(model, root, save.el);
    if (!frame.number) {
      body.textContent = "No tokens yet: press Train or Step.";
      return;
    }
    data = decode(frame);
    body.setAttribute("role", "grid");
    body.setAttribute("aria-label", model.get("label"));
    const wanted = [layers().join(), model.get("tokens"), model.get("names"), model.get("sequence_names")];
    if (wanted.some((one, i) => one !== built[i])) {
      build();
      drawBar();
      drawLegend();
      drawSelected();
      built = wanted;
    }
    paint();
    if (!tip.hidden) fillTip();
    root.dataset.frame = frame.number;
  };

  // ---- the tooltip ---------------------------------------------------------------------------------------------
  let pointed = null; // the span that the tooltip tells about

  const placeOf = (span) => {
    for (const { l, b, spans } of rows) {
      const t = spans.indexOf(span);
      if (t >= 0) return { l, b, t };
    }
    return null;
  };

  const tell = ({ l, b, t }) => {
    const slots = data.slots(l, b, t);
    const taken = slots.filter(({ expert }) => expert >= 0);
    const margin = data.margin(l, b, t);
    const experts = taken.map(({ expert, weight }) => `expert ${expert} with weight ${weight.toFixed(3)}`).join(", ");
    const empty = slots.length - taken.length;
    const notes = [
      taken.length ? "" : "dropped: no expert took it",
      taken.length && empty ? `${empty} of ${slots.length} slots empty` : "",
      margin === null ? "" : `margin ${margin.toFixed(3)}`,
    ].filter(Boolean);
    return { taken, notes, experts };
  };

  const fillTip = () => {
    const place = placeOf(pointed);
    if (!place || !data) return hide();
    const { taken, notes, experts } = tell(place);
    const where = [model.get("names")[place.l], model.get("sequence_names")[place.b], `position ${place.t}`].filter(Boolean).join(" · ");
    const top = Math.max(...taken.map(({ weight }) => weight), 1e-9);
    const lines = taken.map(({ expert, weight }) => {
      const line = make("div", "slot");
      const bar = make("span", `bar ${look(expert, -1).slice(2)}`);
      bar.style.width = `${(100 * weight) / top}%`;
      line.append(make("span", "", `expert ${expert}`), make("span", "", weight.toFixed(3)), bar);
      return line;
    });
    tip.replaceChildren(make("b", "", pointed.textContent), make("div", "quiet", where), ...lines, ...notes.map((note) => make("div", "quiet", note)));
    pointed.setAttribute("aria-label", `${pointed.textContent}: ${[experts, ...notes].filter(Boolean).join("; ")}`);
  };

  const show = (span) => {
    if (!data || span === pointed) return;
    pointed = span;
    tip.hidden = false;
    fillTip();
    const [box, at] = [root.getBoundingClientRect(), span.getBoundingClientRect()];
    const left = Math.min(Math.max(0, at.left - box.left), Math.max(0, box.width - tip.offsetWidth));
    const below = at.bottom - box.top + 6;
    const above = at.top - box.top - tip.offsetHeight - 6;
    tip.style.left = `${left}px`;
    tip.style.top = `${at.bottom + tip.offsetHeight + 12 > innerHeight && above > 0 ? above : below}px`;
  };

  const hide = () => {
    tip.hidden = true;
    pointed = null;
  };

  const spanOf = (event) => (event.target.closest?.(".ge-strip-text .t") ?? null);

  const move = (event) => {
    const place = held && placeOf(held);
    if (!place || spanOf(event) !== held) return;
    const r = rows.findIndex(({ spans }) => spans.includes(held));
    const end = rows[r].spans.length - 1;
    const to = {
      ArrowRight: [r, place.t + 1], ArrowLeft: [r, place.t - 1], ArrowDown: [r + 1, place.t], ArrowUp: [r - 1, place.t],
      Home: [r, 0], End: [r, end],
    }[event.key];
    if (event.key === "Escape") return hide();
    if (event.key === "Enter" || event.key === " ") event.preventDefault(), select(held);
    const span = to && rows[to[0]]?.spans[to[1]];
    if (to) event.preventDefault();
    if (!span) return;
    hold(span);
    span.focus();
  };

  const select = (span) => {
    const { l, b, t } = placeOf(span);
    model.set("selected", { layer: l, sequence: b, position: t });
    model.save_changes();
  };

  const drawSelected = () => {
    const { layer, sequence, position } = model.get("selected");
    for (const { l, b, spans } of rows) {
      for (const [t, span] of spans.entries()) {
        if (l === layer && b === sequence && t === position) span.setAttribute("aria-selected", "true");
        else if (span.hasAttribute("aria-selected")) span.removeAttribute("aria-selected");
      }
    }
  };

  body.addEventListener("pointerover", (event) => spanOf(event) && show(spanOf(event)));
  body.addEventListener("pointerleave", hide);
  body.addEventListener("focusin", (event) => spanOf(event) && (hold(spanOf(event)), show(spanOf(event))));
  body.addEventListener("focusout", hide);
  body.addEventListener("keydown", move);
  body.addEventListener("click", (event) => spanOf(event) && select(spanOf(event)));

  const redraw = () => (draw(model.get("frame")), drawBar(), drawSelected());
  const observed = { "change:layer": redraw, "change:numbers": drawBar, "change:n_experts": drawLegend, "change:selected": drawSelected };
  for (const [event, handler] of Object.entries(observed)) model.on(event, handler);
  drawBar();
  drawLegend();
  const { stop } = follow(model, root, draw);
  return () => {
    stop();
    save.stop();
    for (const [event, handler] of Object.entries(observed)) model.off(event, handler);
  };
}

export default { render };
