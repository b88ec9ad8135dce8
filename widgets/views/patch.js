// Between two full drawings by plotly a chart is patched: when only numbers changed, the lines, cells and title that
// plotly drew get their new shape directly. A full drawing of one chart takes 20 to 60 ms of a small machine's core, a
// patch about two; six charts eight times a second leave the training its core only so. Where the figure is no longer
// the one that plotly drew (other traces, other axes, another number of cells or lines), patch() returns false.

/** All of a figure but its numbers and its heading, as text: while it stays the same, a drawing may be patched. */
function skeleton(figure) {
  return JSON.stringify(figure, (key, value) => {
    if (value === null || typeof value !== "object") return value;
    if ("array" in value && "dtype" in value) return value.shape.length > 1 ? value.shape : "numbers";
    return key === "title" && value.yref === "container" ? undefined : value;
  });
}

/**
 * Whether the drawing was brought up to date; plot is plotly's element, figure what plotly would be given. Lines that
 * leave the axes make it false, unless it may be loose: then they are cut at the edge until plotly draws next.
 */
function patch(plot, { data, layout }, loose = false) {
  if (plot._fullData?.length !== data.length) return false;
  const parts = data.map((trace, i) => {
    const drawn = plot._fullData[i];
    if (trace.type !== drawn.type || (trace.xaxis ?? "x") !== "x") return null;
    if (trace.type === "heatmap") return data.length === 1 ? cellsOf(plot, trace, drawn) : null;
    return trace.type === "scatter" ? lineOf(plot, trace, drawn, i, loose ? null : layout) : null;
  });
  parts.push(headingOf(plot, layout.title?.text ?? ""));
  if (parts.some((part) => !part)) return false;
  for (const part of parts) part();
  return true;
}

const nothing = () => {};
const same = (a, b) => a?.length === b?.length && Array.prototype.every.call(a ?? [], (value, i) => Object.is(value, b[i]));

/** The ends of an axis, or no ends if the reader zoomed: then lines may leave the picture. */
function ends(axis, layout, name) {
  if (!layout) return [-Infinity, Infinity];
  const asked = layout[name];
  const zoomed = asked?.range ? !same(axis.range, asked.range) : axis.autorange === false;
  return zoomed ? [-Infinity, Infinity] : [Math.min(...axis.range), Math.max(...axis.range)];
}

function lineOf(plot, trace, drawn, i, layout) {
  const { xaxis, yaxis } = plot._fullLayout;
  if (drawn.visible === "legendonly") return nothing;
  if (xaxis.type !== "linear" || yaxis.type !== "linear") return null;
  if (trace.mode !== plot.data[i].mode || !trace.mode?.includes("lines")) return null;
  if (trace.mode !== "lines") return same(trace.x, plot.data[i].x) && same(trace.y, plot.data[i].y) ? nothing : null;
  const paths = plot.querySelectorAll(`.trace${drawn.uid} .js-line`);
  if (paths.length !== 1) return null;
  const [[left, right], [low, high]] = [ends(xaxis, layout, "xaxis"), ends(yaxis, layout, "yaxis")];
  let path = "";
  let pen = "M";
  for (let n = 0; n < trace.x.length; n++) {
    const [x, y] = [trace.x[n], trace.y[n]];
    if (!Number.isFinite(y)) pen = "M";
    else if (x < left || x > right || y < low || y > high) return null;
    else {
      path += `${pen}${xaxis.c2p(x).toFixed(2)},${yaxis.c2p(y).toFixed(2)}`;
      pen = "L";
    }
  }
  return () => paths[0].setAttribute("d", path || "M0,0");
}

const scales = new Map();

/** 256 colours of a colour scale, four bytes each. */
function coloursOf(scale) {
  const name = JSON.stringify(scale);
  if (!scales.has(name)) {
    const context = new OffscreenCanvas(256, 1).getContext("2d");
    context.fillStyle = context.createLinearGradient(0, 0, 256, 0);
    for (const [at, colour] of scale) context.fillStyle.addColorStop(at, colour);
    context.fillRect(0, 0, 256, 1);
    scales.set(name, context.getImageData(0, 0, 256, 1).data);
  }
  return scales.get(name);
}

/** How a cell is written, from the two forms that our pictures use: "%{z:.1f}" and "%{z:.0%}". */
function formatOf(template) {
  const [, digits, kind] = template.match(/^%\{z:\.(\d)(f|%)\}$/) ?? [];
  if (!kind) return null;
  return kind === "f" ? (z) => z.toFixed(digits) : (z) => `${(100 * z).toFixed(digits)}%`;
}

function cellsOf(plot, trace, drawn) {
  const { xaxis, yaxis } = plot._fullLayout;
  const images = plot.querySelectorAll(".heatmaplayer image");
  const labels = plot.querySelectorAll(".heatmap-label text");
  const format = trace.texttemplate ? formatOf(trace.texttemplate) : null;
  const known = trace.z.reduce((total, row) => total + row.reduce((n, z) => n + Number.isFinite(z), 0), 0);
  if (images.length !== 1 || xaxis.autorange === false || yaxis.autorange === false || trace.zmax === undefined) return null;
  if (trace.texttemplate && (!format || labels.length !== known)) return null;
  const [height, width] = [trace.z.length, trace.z[0].length];
  if (plot.data[0].z.length !== height || plot.data[0].z[0].length !== width) return null;
  const colours = coloursOf(drawn.colorscale);
  const down = yaxis.range[0] > yaxis.range[1];
  return () => {
    const canvas = make("canvas");
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    let label = 0;
    trace.z.forEach((row, r) => row.forEach((z, c) => {
      if (!Number.isFinite(z)) return;
      const at = 4 * Math.round(255 * Math.min(1, Math.max(0, (z - trace.zmin) / (trace.zmax - trace.zmin))));
      const pixel = colours.subarray(at, at + 4);
      image.data.set(pixel, 4 * ((down ? r : height - 1 - r) * width + c));
      if (format) write(labels[label++], format(z), pixel);
    }));
    context.putImageData(image, 0, 0);
    images[0].setAttribute("href", canvas.toDataURL());
    images[0].removeAttribute("xlink:href");
    images[0].style.imageRendering = "pixelated"; // of a picture with gaps plotly asks for none, and the browser blurs it
  };
}

/** A cell's number, dark or white as plotly chooses it (by the brightness of W3C's accessibility notes). */
function write(label, text, [red, green, blue]) {
  if (label.textContent !== text) label.textContent = text;
  label.style.fill = (299 * red + 587 * green + 114 * blue) / 1000 < 128 ? "#fff" : "#444";
}

const ENTITIES = { lt: "<", gt: ">", amp: "&", "#36": "$", "#37": "%" };

/** The heading's lines: text only, with the few entities that Python writes. */
function headingOf(plot, text) {
  const heading = plot.querySelector(".gtitle");
  if (!heading || heading.dataset.unformatted === text) return nothing;
  const lines = text.split("<br>").map((line) => line.replace(/<[^>]*>/g, "").replace(/&(#?\w+);/g, (all, name) => ENTITIES[name] ?? all));
  const spans = [...heading.querySelectorAll("tspan.line")].map((span) => span.querySelector("tspan") ?? span);
  const places = spans.length ? spans : [heading];
  if (places.length !== lines.length) return null;
  return () => {
    places.forEach((place, i) => (place.textContent = lines[i]));
    heading.dataset.unformatted = text;
  };
}
