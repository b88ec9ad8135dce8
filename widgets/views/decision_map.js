// The decision map on a canvas: ground by expert, paler where the margin is small; marks by cluster; axes; legend.

const MARKS = ["circle", "square", "triangle", "diamond", "plus", "cross", "wedge", "star"];
const PAGE = {
  light: { ink: "#1f2328", quiet: "#59636e", none: "#eaeef2" },
  dark: { ink: "#e6edf3", quiet: "#9da7b3", none: "#21262d" },
};
const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif';
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
  const canvas = make("canvas");
  const legend = make("div");
  root.style.cssText = `font:${FONT};padding:8px;min-width:0;box-sizing:border-box`;
  canvas.style.cssText = "display:block;width:100%";
  legend.style.cssText = "display:flex;flex-wrap:wrap;gap:4px 12px;margin-top:6px";
  canvas.setAttribute("role", "img");
  root.append(canvas, legend);
  el.append(root);
  let told = ""; // what the legend was drawn for

  const fit = () => {
    const width = Math.max(160, root.clientWidth - 16);
    const height = Math.round(Math.min(width * 0.8, 440));
    const scale = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.height = `${height}px`;
    }
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = FONT;
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
    for (const { at, text } of ticks(x0, x1, w / 70)) {
      const x = left + ((at - x0) / (x1 - x0)) * w;
      context.fillRect(x, top + h, 1, 4);
      context.fillText(text, x, top + h + 6);
    }
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const { at, text } of ticks(y0, y1, h / 50)) {
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
    context.font = `600 ${FONT.replace("12px", "15px")}`;
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
    context.font = FONT;
  };

  const drawLegend = (inks, page, theme) => {
    const [points, names, n] = [model.get("points"), model.get("label_names"), model.get("n_experts")];
    const labels = points.count ? [...new Set(typed(points.labels, "uint8"))].sort((a, b) => a - b) : [];
    const state = JSON.stringify([labels, names, n, theme]);
    if (state === told) return;
    told = state;
    legend.style.color = page.quiet;
    const item = (text, paint) => {
      const [one, sample] = [make("span", "", ""), make("canvas")];
      const scale = devicePixelRatio || 1;
      sample.width = sample.height = 14 * scale;
      sample.style.cssText = "width:14px;height:14px;vertical-align:-2px;margin-right:4px";
      const context = sample.getContext("2d");
      context.scale(scale, scale);
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
    canvas.setAttribute("aria-label", [model.get("label"), frame.summary].filter(Boolean).join(". "));
    root.style.color = page.ink;
    const { context, width, height } = fit();
    if (!frame.number) {
      context.fillStyle = page.quiet;
      context.fillText("No map yet: press Train or Step.", 12, 24);
      return;
    }
    const area = { left: 40, top: 6, w: width - 48, h: height - 32 };
    const image = ground(frame, inks, page);
    context.imageSmoothingEnabled = false;
    context.drawImage(image.canvas, area.left, area.top, area.w, area.h);
    drawPoints(context, area, frame, inks, page);
    drawNumbers(context, area, image, page, inks);
    drawAxes(context, area, frame.bounds, page);
    drawLegend(inks, page, theme);
    root.dataset.frame = frame.number;
  };
  const redraw = () => draw(model.get("frame"));
  const observed = ["change:points", "change:label_names", "change:n_experts"];
  for (const event of observed) model.on(event, redraw);
  const { stop } = follow(model, root, draw);
  return () => {
    stop();
    for (const event of observed) model.off(event, redraw);
  };
}

export default { render };
