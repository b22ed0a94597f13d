"use strict";
// How a chart of report.html is drawn: elements, numbers, axes, lines, labels, crosshair. What is shown is in page.js.
const {results: R, summary: S} = JSON.parse(document.getElementById("data").textContent);
const isTask = R.task !== "";
const metricName = isTask ? "accuracy" : "loss";
const names = R.contenders.map(c => c.name);
const runs = new Map(R.runs.map(run => [run.name, run]));
const hidden = new Set();
const redraws = [];  // one function per chart

// --- elements ---
const NAMESPACE = document.getElementById("namespace").namespaceURI;
const SVG = new Set(["svg", "g", "path", "line", "rect", "text", "clipPath", "circle"]);
function el(tag, attributes = {}, ...children) {
  const node = SVG.has(tag) ? document.createElementNS(NAMESPACE, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) if (value != null) node.setAttribute(key, value);
  node.append(...children.filter(child => child != null));
  return node;
}
const color = i => `var(--c${i % 8})`;
const textColor = i => `color-mix(in srgb, ${color(i)} 72%, var(--ink))`;  // light colours are hard to read as letters
const dash = i => i < 8 ? null : "7 4";
// Shapes tell contenders apart without colour.
const SHAPES = [
  r => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
  r => `M${-r * .9} ${-r * .9}H${r * .9}V${r * .9}H${-r * .9}Z`,
  r => `M0 ${-r * 1.2}L${r * 1.1} ${r * .8}H${-r * 1.1}Z`,
  r => `M0 ${-r * 1.3}L${r * 1.3} 0L0 ${r * 1.3}L${-r * 1.3} 0Z`,
  r => `M0 ${r * 1.2}L${r * 1.1} ${-r * .8}H${-r * 1.1}Z`,
  r => { const a = r * .4, b = r * 1.15; return `M${-a} ${-b}H${a}V${-a}H${b}V${a}H${a}V${b}H${-a}V${a}H${-b}V${-a}H${-a}Z`; },
  r => "M" + [...Array(10).keys()].map(k => { const s = k % 2 ? r * .6 : r * 1.4, t = k * Math.PI / 5; return `${s * Math.sin(t)} ${-s * Math.cos(t)}`; }).join("L") + "Z",
  r => "M" + [...Array(6).keys()].map(k => `${r * 1.15 * Math.sin(k * Math.PI / 3)} ${-r * 1.15 * Math.cos(k * Math.PI / 3)}`).join("L") + "Z",
];
function shape(i, r, x = 0, y = 0, hollow = false) {
  return el("path", {d: SHAPES[(i + (i >> 3)) % 8](r), transform: `translate(${x} ${y})`, fill: hollow ? "var(--card)" : color(i),
    stroke: hollow ? color(i) : "var(--card)", "stroke-width": hollow ? 2 : 1});
}
const swatch = i => el("svg", {class: "swatch", viewBox: "-6 -6 12 12", "aria-hidden": "true"}, shape(i, 5));

// --- numbers ---
const plain = (v, digits) => Number(v.toPrecision(digits)).toLocaleString("en-US", {maximumFractionDigits: 6});
function si(v, digits = 3) {
  const units = ["", "k", "M", "G", "T", "P", "E", "Z"];
  let k = 0;
  while (Math.abs(v) >= 999.5 && k < 7) v /= 1000, ++k;
  return plain(v, digits) + (k ? "\u202f" + units[k] : "");
}
function bytes(v, digits = 3) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let k = 0;
  while (Math.abs(v) >= 1000 && k < 4) v /= 1024, ++k;
  return plain(v, digits) + "\u202f" + units[k];
}
const seconds = v => v < 120 ? plain(v, 3) + "\u202fs" : v < 7200 ? plain(v / 60, 3) + "\u202fmin" : plain(v / 3600, 3) + "\u202fh";
const thousands = v => Math.round(v).toLocaleString("en-US");
const percent = v => (100 * v).toFixed(1) + "\u202f%";
const metricText = v => isTask ? (100 * v).toFixed(2) + "\u202f%" : v.toFixed(4);
const axisLoss = (v, step) => v.toFixed([0, 1, 2, 3, 4].find(n => Math.abs(step * 10 ** n - Math.round(step * 10 ** n)) < 1e-6) ?? 5);
const axisMetric = (v, step) => isTask ? plain(100 * v, 4) + "\u202f%" : axisLoss(v, step);
const mean = list => list.reduce((a, b) => a + b, 0) / list.length;

// --- scales and ticks ---
function linearTicks(low, high, n) {
  const raw = (high - low) / n, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find(m => m * power >= raw * .999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; ++k) ticks.push(k * step);
  return ticks.length > 1 || n > 20 ? {ticks, step} : linearTicks(low, high, n + 1);  // one tick tells no scale
}
function logTicks(low, high, base, n) {
  if (base === 2) {
    const first = Math.ceil(Math.log2(low) - 1e-9), last = Math.floor(Math.log2(high) + 1e-9), every = Math.max(1, Math.ceil((last - first + 1) / n));
    return [...Array(Math.max(0, last - first + 1)).keys()].filter(k => k % every === 0).map(k => 2 ** (first + k));
  }
  for (const steps of [[1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); ++p)
      for (const s of steps) if (s * 10 ** p >= low * .999 && s * 10 ** p <= high * 1.001) ticks.push(s * 10 ** p);
    if (ticks.length <= n + 2) return ticks;
  }
  return [low, high];
}
function scale(axis, low, high, from, to) {
  const f = axis.log ? Math.log : v => v;
  return v => from + (f(v) - f(low)) / ((f(high) - f(low)) || 1) * (to - from);
}
function domain(values, axis, pad) {
  let low = axis.min ?? Math.min(...values), high = axis.max ?? Math.max(...values);
  if (axis.log) {
    const room = low === high ? Math.LN2 : Math.log(high / low) * pad;
    return [low / Math.exp(room), high * Math.exp(room)];
  }
  const room = low === high ? Math.abs(low) * .05 || 1 : (high - low) * pad;
  return [axis.min ?? low - room, axis.max ?? high + room];
}
const measure = (() => {
  const context = document.createElement("canvas").getContext("2d");
  const family = getComputedStyle(document.body).fontFamily;
  return text => { context.font = `600 12.5px ${family}`; return context.measureText(text).width; };
})();
function fitted(text, width) {
  if (measure(text) <= width) return text;
  while (text.length > 1 && measure(text + "…") > width) text = text.slice(0, -1);
  return text.trimEnd() + "…";
}
function valueAt(points, x) {
  let k = points.findIndex(p => p.x >= x);
  if (k < 0 || x < points[0].x) return null;
  if (k === 0 || points[k].x === x) return points[k].y;
  const a = points[k - 1], b = points[k];
  return a.y + (b.y - a.y) * (x - a.x) / (b.x - a.x);
}

// --- one chart ---
// spec: {x, y: {label, log, format, ticks, min, max}, series: [{i, points: [{x, y, detail}], thin: [points], dots}], marks: [...],
//        guess, scatter, height}; drawn again when it is shown otherwise or gets another width.
function card(host, {title, sub, wide, controls = [], build}) {
  const state = Object.fromEntries(controls.map(c => [c.key, c.initial ?? c.options[0].value]));
  const subtitle = el("p", {class: "sub"}), bar = el("div", {class: "controls"}), chart = el("div", {class: "chart"});
  const box = el("article", {class: wide ? "card wide" : "card"}, el("h3", {}, title), subtitle, controls.length ? bar : null, chart);
  host.append(box);
  const draw = () => {
    for (const button of bar.querySelectorAll("button")) button.setAttribute("aria-pressed", String(state[button.dataset.key] === button.dataset.value));
    subtitle.textContent = typeof sub === "function" ? sub(state) : sub;
    plot(chart, {height: bar.childElementCount ? 300 : 344, ...build(state)}, title);  // cards of a row are equally high
  };
  for (const control of controls) {
    if (control.options.length < 2) continue;
    bar.append(el("div", {class: "segments", role: "group", "aria-label": control.label}, ...control.options.map(option => {
      const button = el("button", {type: "button", "data-key": control.key, "data-value": option.value}, option.label);
      button.addEventListener("click", () => { state[control.key] = option.value; control.then?.(state); draw(); });
      return button;
    })));
  }
  whenSized(chart, draw);
}
// Draws at once, with every other width, and whenever redraws() are asked for.
function whenSized(host, draw) {
  redraws.push(draw);
  let width = -1;
  const look = () => { if (host.clientWidth !== width) width = host.clientWidth, draw(); };
  look();
  new ResizeObserver(() => requestAnimationFrame(look)).observe(host);  // to draw at once would resize while sizes are told
}

function plot(host, spec, title) {
  const width = host.clientWidth, height = spec.height;
  host.replaceChildren();
  if (width < 10) return;
  // A logarithmic axis has no zero: a length of 0 stands in the tables alone.
  const fits = p => (!spec.x.log || p.x > 0) && (!spec.y.log || p.y > 0 || !Number.isFinite(p.y));
  const series = spec.series.map(s => ({...s, points: s.points.filter(fits), thin: s.thin?.map(points => points.filter(fits))}))
    .filter(s => !hidden.has(s.i) && s.points.length);
  const all = series.flatMap(s => [...s.points, ...(s.thin ?? []).flat()]).filter(p => Number.isFinite(p.y) && (spec.xFrom == null || p.x >= spec.xFrom));
  if (!all.length) {
    host.append(el("p", {class: "note"}, "Nothing to show: every contender is hidden, or was not measured."));
    return;
  }
  const short = text => fitted(text, Math.min(165, width * .26)), labels = series.map(s => short(names[s.i]));
  const right = spec.scatter ? 18 : Math.max(...labels.map(measure)) + 20;
  const [xLow, xHigh] = domain([...all.map(p => p.x), ...(spec.x.extra ?? [])], spec.x, spec.scatter ? .08 : spec.x.pad ?? 0);
  const [yLow, yHigh] = domain([...all.map(p => p.y), ...(spec.guess != null ? [spec.guess] : [])], spec.y, .06);
  const top = spec.marks?.length ? 30 : 12, bottom = height - 46;
  const yMake = scale(spec.y, yLow, yHigh, bottom, top);
  const yTicks = spec.y.log ? logTicks(yLow, yHigh, spec.y.log, 6).map(v => [v, 1]) : (t => t.ticks.map(v => [v, t.step]))(linearTicks(yLow, yHigh, 5));
  const yTexts = yTicks.map(([v, step]) => spec.y.format(v, step));
  const left = Math.max(...yTexts.map(measure)) + 30, edge = width - right;
  const x = scale(spec.x, xLow, xHigh, left, edge), y = yMake;
  const svg = el("svg", {class: "plot", height, viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, "aria-label": `${title}: ${spec.y.label} against ${spec.x.label}`});
  const clip = "clip" + Math.random().toString(36).slice(2);
  svg.append(el("clipPath", {id: clip}, el("rect", {x: left, y: top - 2, width: Math.max(0, edge - left + 1), height: bottom - top + 4})));

  // Axes.
  yTicks.forEach(([v], k) => svg.append(el("line", {class: "grid", x1: left, x2: edge, y1: y(v), y2: y(v)}),
    el("text", {x: left - 8, y: y(v) + 4, "text-anchor": "end"}, yTexts[k])));
  const widest = Math.max(...[xLow, xHigh, ...(spec.x.ticks ?? [])].map(v => measure(spec.x.format(Number(v.toPrecision(3))))));
  const room = Math.max(2, Math.floor((edge - left) / (widest + 22)));
  const wanted = spec.x.ticks?.filter(v => !spec.x.log || v > 0) ?? (spec.x.log ? logTicks(xLow, xHigh, spec.x.log, room) : linearTicks(xLow, xHigh, room).ticks);
  let free = -Infinity;  // where the next label may begin
  for (const v of wanted) {
    const half = measure(spec.x.format(v)) / 2;
    if (x(v) - half < free) continue;
    free = x(v) + half + 8;
    svg.append(el("line", {class: "base", x1: x(v), x2: x(v), y1: bottom, y2: bottom + 4}),
    el("text", {x: x(v), y: bottom + 18, "text-anchor": "middle"}, spec.x.format(v)));
  }
  svg.append(el("line", {class: "base", x1: left, x2: edge, y1: bottom, y2: bottom}),
    el("text", {class: "axis-title", x: (left + edge) / 2, y: height - 8, "text-anchor": "middle"}, spec.x.label),
    el("text", {class: "axis-title", transform: `translate(11 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle"}, spec.y.label));
  if (spec.guess != null) svg.append(el("line", {class: "guess", x1: left, x2: edge, y1: y(spec.guess), y2: y(spec.guess)}),
    el("text", {class: "halo", x: left + 6, y: y(spec.guess) - 6}, "a guess"));

  // Lines, seeds first.
  const path = points => {
    let d = "", pen = false;
    for (const p of points) { const ok = Number.isFinite(p.y); if (ok) d += `${pen ? "L" : "M"}${x(p.x).toFixed(1)} ${y(p.y).toFixed(1)}`; pen = ok; }
    return d;
  };
  const area = el("g", {"clip-path": `url(#${clip})`});
  if (!spec.scatter) {
    for (const s of series) for (const thin of s.thin ?? []) area.append(el("path", {class: "thin", d: path(thin), stroke: color(s.i)}));
    for (const s of series) area.append(el("path", {class: "line", d: path(s.points), stroke: color(s.i), "stroke-dasharray": dash(s.i)}));
  }
  svg.append(area);
  for (const s of series) if (s.dots || spec.scatter) for (const p of s.points)
    if (Number.isFinite(p.y)) {
      if (p.ring) svg.append(el("circle", {cx: x(p.x), cy: y(p.y), r: 10, fill: "none", stroke: color(s.i), "stroke-width": 1.75}));
      svg.append(shape(s.i, spec.scatter ? 6.5 : 4.5, x(p.x), y(p.y)));
    }
  // Failed runs stand above the plot, side by side.
  const stacked = new Map();
  for (const mark of spec.marks ?? []) {
    if (hidden.has(mark.i)) continue;
    const key = mark.x, k = stacked.get(key) ?? 0;
    stacked.set(key, k + 1);
    const cx = x(mark.x) + k * 14 - 7 * ((spec.marks.filter(m => m.x === key && !hidden.has(m.i)).length) - 1);
    svg.append(el("path", {d: "M-4 -4L4 4M4 -4L-4 4", transform: `translate(${cx} 15)`, stroke: color(mark.i), "stroke-width": 2.25, "stroke-linecap": "round"}));
  }
  if (stacked.size) svg.append(el("text", {x: left - 8, y: 19, "text-anchor": "end"}, "failed"));

  // Names at the end of their lines, pushed apart.
  if (spec.scatter) {
    const taken = series.flatMap(s => s.points.map(p => ({left: x(p.x) - 8, right: x(p.x) + 8, top: y(p.y) - 8, bottom: y(p.y) + 8})));
    for (const s of series) {
      const p = s.points[0], w = measure(short(names[s.i]));
      const spots = [[12, 4], [-12 - w, 4], [-w / 2, -13], [-w / 2, 22], [12, -9], [12, 18], [-12 - w, -9], [-12 - w, 18]]
        .map(([dx, dy]) => ({left: x(p.x) + dx, right: x(p.x) + dx + w, top: y(p.y) + dy - 11, bottom: y(p.y) + dy + 3}));
      const free = b => b.left > left && b.right < width - 2 && b.top > 0 && b.bottom < bottom && !taken.some(t => b.left < t.right && b.right > t.left && b.top < t.bottom && b.bottom > t.top);
      const spot = spots.find(free) ?? spots[0];
      taken.push(spot);
      svg.append(el("text", {class: "direct halo", x: spot.left, y: spot.bottom - 3, style: `fill:${textColor(s.i)}`}, short(names[s.i])));
    }
  } else {
    const ends = series.map(s => { const p = [...s.points].reverse().find(q => Number.isFinite(q.y)); return {i: s.i, x: x(p.x), at: Math.min(bottom, Math.max(top, y(p.y)))}; }).sort((a, b) => a.at - b.at);
    ends.forEach((e, k) => e.y = Math.max(e.at, k ? ends[k - 1].y + 15 : top));
    for (let k = ends.length - 1, limit = bottom + 2; k >= 0; limit = ends[k].y - 15, --k) ends[k].y = Math.min(ends[k].y, limit);
    for (const e of ends) svg.append(
      el("path", {d: `M${e.x + 3} ${e.at}L${edge + 10} ${e.y}`, stroke: color(e.i), opacity: .55, fill: "none", "stroke-dasharray": "1 3"}),
      el("text", {class: "direct", x: edge + 13, y: e.y + 4, style: `fill:${textColor(e.i)}`}, short(names[e.i])));
  }
  host.append(svg);
  hover(host, svg, {spec, series, x, y, left, edge, top, bottom, width, xLow, xHigh});
}

// Crosshair and values: under the pointer, or with the arrow keys.
function hover(host, svg, {spec, series, x, y, left, edge, top, bottom, width, xLow, xHigh}) {
  const layer = el("g", {"pointer-events": "none"}), tip = el("div", {class: "tip", role: "status"});
  svg.append(layer);
  const stops = [...new Set(series.flatMap(s => s.points.map(p => p.x)))].filter(v => v >= xLow * (1 - 1e-9) && v <= xHigh * (1 + 1e-9)).sort((a, b) => a - b);
  const dots = series.flatMap(s => s.points.map(p => ({i: s.i, p})));
  let at = -1;
  const clear = () => { layer.replaceChildren(); tip.remove(); at = -1; };
  const row = (i, text) => el("div", {}, swatch(i), el("span", {}, names[i]), el("span", {}, text));
  const place = (px, py) => {
    host.append(tip);
    const w = tip.offsetWidth, h = tip.offsetHeight;
    tip.style.left = Math.max(0, px + 16 + w > width ? px - 16 - w : px + 16) + "px";
    tip.style.top = Math.max(0, Math.min(py - h / 2, bottom - h)) + "px";
  };
  const show = k => {
    at = k;
    if (spec.scatter) {
      const {i, p} = dots[k];
      layer.replaceChildren(el("circle", {cx: x(p.x), cy: y(p.y), r: 11, fill: "none", stroke: color(i), "stroke-width": 2}));
      tip.replaceChildren(el("b", {}, names[i]), ...p.detail.map(([name, text]) => el("div", {}, el("span", {}, name), el("span", {}, text))));
      return place(x(p.x), y(p.y));
    }
    const v = stops[k];
    const rows = series.map(s => ({i: s.i, y: spec.exact ? s.points.find(p => p.x === v)?.y : valueAt(s.points, v)})).filter(r => Number.isFinite(r.y));
    rows.sort((a, b) => spec.highFirst ? b.y - a.y : a.y - b.y);
    layer.replaceChildren(el("line", {class: "cross", x1: x(v), x2: x(v), y1: top, y2: bottom}),
      ...rows.filter(r => y(r.y) >= top - 2 && y(r.y) <= bottom + 2).map(r => shape(r.i, 4.5, x(v), y(r.y))));
    tip.replaceChildren(el("b", {}, (spec.x.tip ?? spec.x.format)(v)), ...rows.map(r => row(r.i, (spec.y.tip ?? spec.y.format)(r.y, .001))),
      ...(spec.marks ?? []).filter(m => m.x === v && !hidden.has(m.i)).map(m => row(m.i, "failed")));
    place(x(v), (top + bottom) / 2);
  };
  const count = spec.scatter ? dots.length : stops.length;
  svg.addEventListener("pointermove", event => {
    const frame = svg.getBoundingClientRect(), px = event.clientX - frame.left, py = event.clientY - frame.top;
    if (px < left - 12 || px > edge + 12) return clear();
    let best = 0, distance = Infinity;
    for (let k = 0; k < count; ++k) {
      const d = spec.scatter ? Math.hypot(x(dots[k].p.x) - px, y(dots[k].p.y) - py) : Math.abs(x(stops[k]) - px);
      if (d < distance) best = k, distance = d;
    }
    if (spec.scatter && distance > 60) return clear();
    if (count) show(best);
  });
  svg.addEventListener("pointerleave", clear);
  svg.addEventListener("blur", clear);
  svg.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (event.key === "Escape") clear();
    if (!step || !count) return;
    event.preventDefault();
    show(Math.max(0, Math.min(count - 1, at < 0 ? (step > 0 ? 0 : count - 1) : at + step)));
  });
}
