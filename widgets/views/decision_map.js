// The decision map on a canvas: ground by expert, paler where the margin is small; marks by cluster; axes; legend.

const MARKS = ["circle", "square", "triangle", "diamond", "plus", "cross", "wedge", "star"];
const PAGE = {
  light: { ink: "#1f2328", quiet: "#59636e", none: "#eaeef2" },
  dark: { ink: "#e6edf3", quiet: "#9da7b3", none: "#21262d" },
};
/** The letters of the map, at `size` px before the page's scale. */
const fontOf = (scale, size = 12, weight = 400) =>
  `${weight} ${Math.round(size * scale)}px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif`;
const NOBODY = 255;

const rgb = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));

/** About `most` round numbers between low and high. */
function ticks(low, high, most = 6) {
  const rough = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const first = Math.ceil(low / step);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => ({
    at: (first + i) * step,
    text: ((first + i) * step).toFixed(digits).replace("-", "−"),
  }));
}

/** The outline of mark number n around (x, y), as a path. */
function mark(n, x, y, r) {
  const path = new Path2D();
  const polygon = (points) => {
    points.forEach(([dx, dy], i) => path[i ? "lineTo" : "moveTo"](x + r * dx, y + r * dy));
    path.closePath();
  };
  const cross = (turn) => {
    const w = 0.38;
    const corners = [[-w, -1.2], [w, -1.2], [w, -w], [1.2, -w], [1.2, w], [w, w], [w, 1.2], [-w, 1.2], [-w, w], [-1.2, w], [-1.2, -w], [-w, -w]];
    polygon(corners.map(([a, b]) => [a * Math.cos(turn) - b * Math.sin(turn), a * Math.sin(turn) + b * Math.cos(turn)]));
  };
  const shapes = {
    circle: () => path.arc(x, y, r, 0, 2 * Math.PI),
    square: () => polygon([[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]]),
    triangle: () => polygon([[0, -1.25], [1.15, 0.85], [-1.15, 0.85]]),
    diamond: () => polygon([[0, -1.35], [1.1, 0], [0, 1.35], [-1.1, 0]]),
    plus: () => cross(0),
    cross: () => cross(Math.PI / 4),
    wedge: () => polygon([[0, 1.25], [1.15, -0.85], [-1.15, -0.85]]),
    star: () => polygon(Array.from({ length: 10 }, (_, i) => {
      const [angle, far] = [(Math.PI * i) / 5 - Math.PI / 2, i % 2 ? 0.6 : 1.4];
      return [far * Math.cos(angle), far * Math.sin(angle)];
    })),
  };
  shapes[MARKS[n % MARKS.length]]();
  return path;
}

/** The ground as an image of H x W pixels: the expert's colour, mixed into the page's by its margin. */
function ground(frame, inks, page) {
  const [H, W] = frame.shape;
  const [experts, margins] = [typed(frame.experts, "uint8"), typed(frame.margins, "uint8")];
  const colours = inks.experts.map(rgb);
  const [back, none] = [rgb(inks.page), rgb(page.none)];
  const image = new ImageData(W, H);
  for (let i = 0; i < H * W; i++) {
    const taken = experts[i] !== NOBODY;
    const colour = taken ? colours[experts[i] % colours.length] : none;
    const share = taken ? 0.18 + 0.52 * (margins[i] / 255) : 1;
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = back[c] + share * (colour[c] - back[c]);
    image.data[4 * i + 3] = 255;
  }
  const canvas = new OffscreenCanvas(W, H);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return { canvas, experts, H, W };
}

/** For each expert with a visible region the cell of its own nearest to its middle: there its number is written. */
function middles({ experts, H, W }) {
  const [count, rows, columns] = [new Float64Array(256), new Float64Array(256), new Float64Array(256)];
  for (let i = 0; i < H * W; i++) {
    count[experts[i]]++;
    rows[experts[i]] += Math.floor(i / W);
    columns[experts[i]] += i % W;
  }
  const [far, best] = [new Float64Array(256).fill(Infinity), new Int32Array(256)];
  for (let i = 0; i < H * W; i++) {
    const e = experts[i];
    const away = (Math.floor(i / W) - rows[e] / count[e]) ** 2 + ((i % W) - columns[e] / count[e]) ** 2;
    if (away < far[e]) [far[e], best[e]] = [away, i];
  }
  const seen = Array.from(count.keys()).filter((e) => e !== NOBODY && count[e] >= 0.015 * H * W);
  return seen.map((e) => ({ expert: e, x: ((best[e] % W) + 0.5) / W, y: (Math.floor(best[e] / W) + 0.5) / H }));
}

function render({ model, el }) {
  const root = make("div", "ge-map");
  const [head, title, field] = [make("div", "ge-map-head"), make("div", "ge-map-title"), make("div", "ge-map-field")];
  const [canvas, cursor, legend] = [make("canvas"), make("div", "ge-map-cursor"), make("div", "ge-map-legend")];
  const [readout, spoken] = [make("div", "ge-map-readout"), make("div", "ge-unseen")];
  const save = saveMenu(model, { png: (stamp) => picture(stamp) });
  title.setAttribute("aria-hidden", "true"); // the canvas says the same
  readout.setAttribute("aria-hidden", "true");
  spoken.setAttribute("role", "status");
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-roledescription", "map");
  canvas.tabIndex = 0;
  cursor.hidden = true;
  head.append(title, save.el);
  field.append(canvas, cursor);
  root.append(head, field, readout, spoken, legend);
  el.append(root);
  let told = ""; // what the legend was drawn for
  let scale = 1; // of the letters
  let sharpness = 1; // dots a pixel at least: two in a picture that is saved
  let drawn = null; // {area, image, bounds} of the newest drawing

  const fit = () => {
    const width = Math.max(160, root.clientWidth - 16);
    const height = Math.round(Math.min(width * 0.8, 440));
    const dots = Math.max(devicePixelRatio || 1, sharpness);
    if (canvas.width !== Math.round(width * dots) || canvas.height !== Math.round(height * dots)) {
      canvas.width = Math.round(width * dots);
      canvas.height = Math.round(height * dots);
      canvas.style.height = `${height}px`;
    }
    const context = canvas.getContext("2d");
    context.setTransform(dots, 0, 0, dots, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = fontOf(scale);
    return { context, width, height };
  };

  const drawAxes = (context, area, [x0, x1, y0, y1], page) => {
    const { left, top, w, h } = area;
    context.strokeStyle = page.quiet;
    context.fillStyle = page.quiet;
    context.lineWidth = 1;
    context.strokeRect(left + 0.5, top + 0.5, w - 1, h - 1);
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const { at, text } of ticks(x0, x1, w / 70 / scale)) {
      const x = left + ((at - x0) / (x1 - x0)) * w;
      context.fillRect(x, top + h, 1, 4);
      context.fillText(text, x, top + h + 6);
    }
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const { at, text } of ticks(y0, y1, h / 50 / scale)) {
      const y = top + h - ((at - y0) / (y1 - y0)) * h;
      context.fillRect(left - 4, y, 4, 1);
      context.fillText(text, left - 7, y);
    }
  };

  /** The marks, drawn once and kept until one of them, the size or the theme changes. */
  const marks = { of: [], canvas: null };
  const drawPoints = (context, area, frame, inks, page) => {
    const points = model.get("points");
    if (!points.count) return;
    const takers = frame.takers.byteLength ? String(typed(frame.takers, "uint8")) : "";
    const of = [points, inks, takers, String(frame.bounds), canvas.width, canvas.height];
    if (of.some((one, i) => one !== marks.of[i])) {
      marks.of = of;
      marks.canvas = new OffscreenCanvas(canvas.width, canvas.height);
      const layer = marks.canvas.getContext("2d");
      layer.setTransform(context.getTransform());
      paintPoints(layer, area, frame, points, inks, page);
    }
    context.save();
    context.resetTransform();
    context.drawImage(marks.canvas, 0, 0);
    context.restore();
  };

  const paintPoints = (context, area, frame, points, inks, page) => {
    const [x0, x1, y0, y1] = frame.bounds;
    const [xy, labels] = [typed(points.xy, "float32"), typed(points.labels, "uint8")];
    const takers = frame.takers.byteLength ? typed(frame.takers, "uint8") : labels;
    const r = points.count > 600 ? 2.6 : 3.6;
    context.beginPath();
    context.rect(area.left, area.top, area.w, area.h);
    context.clip();
    context.lineWidth = 1;
    context.strokeStyle = page.ink;
    for (let i = 0; i < points.count; i++) {
      const x = area.left + ((xy[2 * i] - x0) / (x1 - x0)) * area.w;
      const y = area.top + area.h - ((xy[2 * i + 1] - y0) / (y1 - y0)) * area.h;
      const path = mark(labels[i], x, y, r);
      context.fillStyle = takers[i] === NOBODY ? page.none : inks.experts[takers[i] % inks.experts.length];
      context.fill(path);
      context.stroke(path);
    }
  };

  const drawNumbers = (context, area, image, page, inks) => {
    context.font = fontOf(scale, 15, 600);
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineWidth = 4;
    context.strokeStyle = inks.page;
    context.fillStyle = page.ink;
    for (const { expert, x, y } of middles(image)) {
      const [px, py] = [area.left + x * area.w, area.top + y * area.h];
      context.strokeText(expert, px, py);
      context.fillText(expert, px, py);
    }
    context.font = fontOf(scale);
  };

  const drawLegend = (inks, page, theme) => {
    const [points, names, n] = [model.get("points"), model.get("label_names"), model.get("n_experts")];
    const labels = points.count ? [...new Set(typed(points.labels, "uint8"))].sort((a, b) => a - b) : [];
    const state = JSON.stringify([labels, names, n, theme]);
    if (state === told) return;
    told = state;
    const item = (text, paint) => {
      const [one, sample] = [make("span", "", ""), make("canvas")];
      const dots = devicePixelRatio || 1;
      sample.width = sample.height = 14 * dots;
      sample.style.cssText = "width:14px;height:14px;vertical-align:-2px;margin-right:4px";
      const context = sample.getContext("2d");
      context.scale(dots, dots);
      paint(context);
      one.append(sample, text);
      return one;
    };
    const experts = Array.from({ length: n }, (_, e) => item(`expert ${e}`, (context) => {
      context.fillStyle = inks.experts[e % inks.experts.length];
      context.fillRect(0, 0, 14, 14);
    }));
    const clusters = labels.map((label) => item(names[label] ?? `cluster ${label}`, (context) => {
      const path = mark(label, 7, 7, 4.4);
      context.fillStyle = model.get("frame").takers?.byteLength ? inks.page : inks.experts[label % inks.experts.length];
      context.strokeStyle = page.ink;
      context.fill(path);
      context.stroke(path);
    }));
    legend.replaceChildren(...experts, ...clusters);
  };

  const draw = (frame) => {
    const theme = themeOf(model);
    const [inks, page] = [model.get("inks")[theme], PAGE[theme]];
    const hint = frame.number ? "The arrow keys tell which expert takes a place" : "";
    canvas.setAttribute("aria-label", [model.get("label"), frame.summary, hint].filter(Boolean).join(". "));
    if (title.textContent !== model.get("label")) title.textContent = model.get("label");
    scale = dress(model, root, save.el);
    const { context, width, height } = fit();
    if (!frame.number) {
      context.fillStyle = page.quiet;
      context.fillText("No map yet: press Train or Step.", 12, 24);
      return;
    }
    const top = Math.round(7 * scale);
    const area = { left: Math.round(40 * scale), top, w: width - Math.round(52 * scale), h: height - Math.round(26 * scale) - top };
    const image = ground(frame, inks, page);
    context.imageSmoothingEnabled = false;
    context.drawImage(image.canvas, area.left, area.top, area.w, area.h);
    drawPoints(context, area, frame, inks, page);
    drawNumbers(context, area, image, page, inks);
    drawAxes(context, area, frame.bounds, page);
    drawLegend(inks, page, theme);
    drawn = { area, image, bounds: frame.bounds };
    if (place) tell();
    root.dataset.frame = frame.number;
  };

  // ---- what is under the pointer, or under the cursor that the arrow keys move -----------------------------------
  let place = null; // {row, column} of the grid

  const tell = (aloud = false) => {
    const { area, image: { experts, H, W }, bounds: [x0, x1, y0, y1] } = drawn;
    const [across, down] = [(place.column + 0.5) / W, (place.row + 0.5) / H];
    const expert = experts[Math.min(place.row, H - 1) * W + Math.min(place.column, W - 1)];
    const number = (value) => value.toFixed(2).replace("-", "−");
    const where = `x ${number(x0 + across * (x1 - x0))}, y ${number(y1 - down * (y1 - y0))}`;
    readout.textContent = `${where}: ${expert === NOBODY ? "no expert" : `expert ${expert}`}`;
    cursor.style.left = `${area.left + across * area.w}px`;
    cursor.style.top = `${area.top + down * area.h}px`;
    if (aloud) spoken.textContent = readout.textContent;
  };
  const forget = () => {
    place = null;
    cursor.hidden = true;
    readout.textContent = "";
  };
  const point = (event) => {
    if (!drawn) return;
    const { area, image: { H, W } } = drawn;
    const [across, down] = [(event.offsetX - area.left) / area.w, (event.offsetY - area.top) / area.h];
    if (across < 0 || across >= 1 || down < 0 || down >= 1) return forget();
    place = { row: Math.floor(down * H), column: Math.floor(across * W) };
    cursor.hidden = true;
    tell();
  };
  const move = (event) => {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const [down, across] = steps[event.key] ?? [];
    if (event.key === "Escape") return forget();
    if (down === undefined || !drawn) return;
    event.preventDefault();
    const { H, W } = drawn.image;
    const [far, held] = [event.shiftKey ? 8 : 1, (value, size) => Math.min(size - 1, Math.max(0, value))];
    const from = place ?? { row: Math.floor(H / 2), column: Math.floor(W / 2) };
    place = { row: held(from.row + far * down, H), column: held(from.column + far * across, W) };
    cursor.hidden = false;
    tell(true);
  };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerleave", () => cursor.hidden && forget());
  canvas.addEventListener("keydown", move);
  canvas.addEventListener("blur", forget);

  // ---- the picture as a file -------------------------------------------------------------------------------------

  /** The title, the map as it is drawn now, its legend and the stamp, on paper of the theme's colour. */
  const picture = (stamp) => {
    sharpness = 2;
    redraw();
    try {
      return paintPicture(stamp);
    } finally {
      sharpness = 1;
      redraw();
    }
  };

  const paintPicture = (stamp) => {
    const [theme, dots] = [themeOf(model), canvas.width / canvas.clientWidth];
    const [width, height, size] = [root.clientWidth, canvas.clientHeight, Math.round(12 * scale)];
    const [names, lines] = [wrap(model.get("label"), Math.floor((width - 16) / 7.4 / scale)), stampLines(stamp, width)];
    const top = 8 + 18 * scale * names.length;
    const [rows, line] = [laidOut(width - 16, size), size + 8];
    const paper = make("canvas");
    paper.width = width * dots;
    paper.height = Math.ceil((top + height + rows.length * line + 12 + stampHeight(lines)) * dots);
    const context = paper.getContext("2d");
    context.scale(dots, dots);
    context.fillStyle = PAPER[theme];
    context.fillRect(0, 0, width, paper.height);
    context.textBaseline = "middle";
    context.fillStyle = PAGE[theme].ink;
    context.font = fontOf(scale, 14);
    names.forEach((name, i) => context.fillText(name, 8, 4 + 18 * scale * (i + 0.5)));
    context.drawImage(canvas, 8, top, canvas.clientWidth, height);
    context.font = fontOf(scale);
    context.fillStyle = PAGE[theme].quiet;
    rows.forEach((items, i) => items.forEach(({ sample, text, x }) => {
      const y = top + height + 8 + (i + 0.5) * line;
      context.drawImage(sample, 8 + x, y - 7, 14, 14);
      context.fillText(text, 8 + x + 18, y);
    }));
    context.font = fontOf(1, 10);
    context.fillStyle = INK[theme];
    const foot = top + height + rows.length * line + 12;
    lines.forEach((text, i) => context.fillText(text, 8, foot + 8 + 14 * i));
    return blobOf(paper);
  };

  /** The legend's samples and texts in rows of at most `width` px. */
  const laidOut = (width, size) => {
    const measure = new OffscreenCanvas(1, 1).getContext("2d");
    measure.font = fontOf(scale);
    const rows = [];
    let x = Infinity;
    for (const one of legend.children) {
      const [sample, text] = [one.firstChild, one.textContent];
      const room = 18 + measure.measureText(text).width + size;
      if (x + room > width) rows.push([]), (x = 0);
      rows.at(-1).push({ sample, text, x });
      x += room;
    }
    return rows;
  };
  const redraw = () => draw(model.get("frame"));
  const observed = ["change:points", "change:label_names", "change:n_experts"];
  for (const event of observed) model.on(event, redraw);
  const { stop } = follow(model, root, draw);
  return () => {
    stop();
    save.stop();
    for (const event of observed) model.off(event, redraw);
  };
}

export default { render };
