"use strict";
// Draws the charts of report.html. The numbers come from the JSON beside it, names only ever become text nodes.
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
  return el("path", {d: SHAPES[i % 8](r), transform: `translate(${x} ${y})`, fill: hollow ? "var(--card)" : color(i),
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
const axisMetric = (v, step) => isTask ? plain(100 * v, 4) + "\u202f%" : v.toFixed(Math.max(0, Math.min(4, -Math.floor(Math.log10(step) + 1e-9))));
const mean = list => list.reduce((a, b) => a + b, 0) / list.length;

// --- scales and ticks ---
function linearTicks(low, high, n) {
  const raw = (high - low) / n, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find(m => m * power >= raw * .999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; ++k) ticks.push(k * step);
  return {ticks, step};
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
  return text => { context.font = "600 12.5px system-ui, sans-serif"; return context.measureText(text).width; };
})();
const short = text => text.length > 22 ? text.slice(0, 21) + "…" : text;
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
    plot(chart, build(state), title);
  };
  for (const control of controls) {
    if (control.options.length < 2) continue;
    bar.append(el("div", {class: "segments", role: "group", "aria-label": control.label}, ...control.options.map(option => {
      const button = el("button", {type: "button", "data-key": control.key, "data-value": option.value}, option.label);
      button.addEventListener("click", () => { state[control.key] = option.value; control.then?.(state); draw(); });
      return button;
    })));
  }
  redraws.push(draw);
  draw();
}

function plot(host, spec, title) {
  const width = host.clientWidth, height = spec.height ?? 300;
  host.replaceChildren();
  if (width < 10) return;
  const series = spec.series.filter(s => !hidden.has(s.i) && s.points.length);
  const all = series.flatMap(s => [...s.points, ...(s.thin ?? []).flat()]).filter(p => Number.isFinite(p.y) && (spec.xFrom == null || p.x >= spec.xFrom));
  if (!all.length) {
    host.append(el("p", {class: "note"}, "Nothing to show: every contender is hidden, or was not measured."));
    return;
  }
  const labels = series.map(s => short(names[s.i]));
  const right = spec.scatter ? 18 : Math.min(180, Math.max(...labels.map(measure)) + 20);
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
  const room = Math.max(2, Math.floor((edge - left) / 76));
  let xTicks = spec.x.ticks ?? (spec.x.log ? logTicks(xLow, xHigh, spec.x.log, room) : linearTicks(xLow, xHigh, room).ticks);
  if (spec.x.ticks) { const every = Math.ceil(xTicks.length / room); xTicks = xTicks.filter((_, k) => k % every === 0); }
  for (const v of xTicks) svg.append(el("line", {class: "base", x1: x(v), x2: x(v), y1: bottom, y2: bottom + 4}),
    el("text", {x: x(v), y: bottom + 18, "text-anchor": "middle"}, spec.x.format(v)));
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
      svg.append(el("text", {class: "direct halo", x: spot.left, y: spot.bottom - 3, style: `fill:${color(s.i)}`}, short(names[s.i])));
    }
  } else {
    const ends = series.map(s => { const p = [...s.points].reverse().find(q => Number.isFinite(q.y)); return {i: s.i, x: x(p.x), at: Math.min(bottom, Math.max(top, y(p.y)))}; }).sort((a, b) => a.at - b.at);
    ends.forEach((e, k) => e.y = Math.max(e.at, k ? ends[k - 1].y + 15 : top));
    for (let k = ends.length - 1, limit = bottom + 2; k >= 0; limit = ends[k].y - 15, --k) ends[k].y = Math.min(ends[k].y, limit);
    for (const e of ends) svg.append(
      el("path", {d: `M${e.x + 3} ${e.at}L${edge + 10} ${e.y}`, stroke: color(e.i), opacity: .45, fill: "none", "stroke-width": 1}),
      el("text", {class: "direct", x: edge + 13, y: e.y + 4, style: `fill:${color(e.i)}`}, short(names[e.i])));
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
  const row = (i, text) => el("div", {}, swatch(i), el("span", {}, short(names[i])), el("span", {}, text));
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

// --- what the charts show ---
const judged = (budget, name) => (S.find(s => s.budget === budget)?.contenders.find(c => c.name === name)?.runs ?? []).map(run => runs.get(run));
const budgetWords = {tokens: "Same tokens", flops: "Same FLOPs", time: "Same time"};
const axes = {
  tokens: {label: "tokens", format: v => si(v), of: run => 1},
  flops: {label: "training FLOPs", format: v => si(v), of: run => run.training_flops / run.tokens},
  time: {label: "training time", format: seconds, of: run => run.seconds / run.tokens},
};
function smoothed(points) {
  const half = Math.floor(points.length / 60);
  return points.map((p, k) => {
    const near = points.slice(Math.max(0, k - half), k + half + 1).map(q => q.y).filter(Number.isFinite);
    return {x: p.x, y: Number.isFinite(p.y) && near.length ? mean(near) : NaN};
  });
}
function meanCurve(curves) {
  if (!curves.length) return [];
  return curves[0].map(p => {
    const values = curves.map(c => valueAt(c, p.x)).filter(v => v != null && Number.isFinite(v));
    return {x: p.x, y: values.length === curves.length ? mean(values) : NaN};
  });
}
function trainingCurves(host) {
  const has = (curve, k) => R.runs.some(run => run[curve].some(p => p[k] != null));
  const measures = [
    ...(has("eval_curve", 2) ? [{value: "accuracy", label: "accuracy", curve: "eval_curve", k: 2, title: "accuracy"}] : []),
    ...(has("eval_curve", 1) ? [{value: "evaluation", label: "evaluation loss", curve: "eval_curve", k: 1, title: "evaluation loss (nats)"}] : []),
    ...(has("train_curve", 1) ? [{value: "training", label: "training loss", curve: "train_curve", k: 1, title: "training loss (nats)"}] : []),
  ];
  if (!measures.length) return missing.push("curves of training");
  card(host, {
    title: "Learning curves", wide: true,
    sub: state => `${budgetWords[state.budget]}, each contender at its best learning rate. Bold: the mean over seeds; thin: each seed.` + (state.measure === "training" ? " Both are running means." : ""),
    controls: [
      {key: "measure", label: "What is shown", options: measures},
      {key: "budget", label: "Budget", options: R.budgets.map(b => ({value: b, label: budgetWords[b].toLowerCase()})), then: state => state.x = state.budget},
      {key: "x", label: "Horizontal axis", options: [{value: "tokens", label: "tokens"}, {value: "flops", label: "FLOPs"}, {value: "time", label: "time"}]},
      {key: "zoom", label: "Part of the run", initial: "late", options: [{value: "all", label: "whole run"}, {value: "late", label: "without the first quarter"}]},
    ],
    build: state => {
      const shown = measures.find(m => m.value === state.measure), axis = axes[state.x];
      const series = names.map((name, i) => {
        const curves = judged(state.budget, name).map(run => {
          const points = run[shown.curve].filter(p => p[shown.k] !== undefined).map(p => ({x: p[0] * axis.of(run), y: p[shown.k] ?? NaN}));
          return shown.curve === "train_curve" ? smoothed(points) : points;
        }).filter(c => c.length);
        return {i, points: meanCurve(curves), thin: curves.length > 1 ? curves : []};
      });
      const end = Math.max(...series.flatMap(s => s.points.map(p => p.x)), 0), from = state.zoom === "late" ? end / 4 : 0;
      const isAccuracy = state.measure === "accuracy";
      return {height: 420, series, xFrom: from, highFirst: isAccuracy,
        x: {label: axis.label, format: axis.format, min: from, max: end, tip: v => `${axis.format(v)}${state.x === "time" ? "" : " " + axis.label}`},
        y: {label: shown.title, format: isAccuracy ? v => plain(100 * v, 3) + "\u202f%" : (v, step) => v.toFixed(step < .0999 ? 2 : 1), tip: isAccuracy ? percent : v => v.toFixed(4), max: isAccuracy ? 1 : undefined}};
    },
  });
}
function learningRates(host) {
  const value = point => isTask ? point.accuracy : point.loss_nats;
  if (!R.contenders.some(c => c.grid.some(p => value(p) != null))) return missing.push("the grid of learning rates");
  const rates = [...new Set(R.contenders.flatMap(c => c.grid.map(p => p.lr)))].sort((a, b) => a - b);
  card(host, {
    title: "Learning rates", sub: "Ring: the rate that was chosen. ×: the run failed.",
    build: () => ({exact: true, highFirst: isTask,
      series: R.contenders.map((c, i) => ({i, dots: true, points: c.grid.filter(p => value(p) != null).sort((a, b) => a.lr - b.lr).map(p => ({x: p.lr, y: value(p), ring: p.lr === c.best_lr}))})),
      marks: R.contenders.flatMap((c, i) => c.grid.filter(p => p.failed != null).map(p => ({i, x: p.lr}))),
      x: {label: "learning rate", log: 10, ticks: rates, extra: rates, pad: .06, format: v => String(v)},
      y: {label: isTask ? "accuracy" : "loss (nats)", format: axisMetric, tip: metricText}}),
  });
}
function byPosition(host) {
  if (!R.runs.some(run => run.evaluation?.by_position?.length)) return missing.push("loss by position");
  card(host, {
    title: "Loss by position", sub: "How much a longer past helps. Mean over seeds, same tokens.",
    build: () => ({exact: true,
      series: names.map((name, i) => {
        const lists = judged("tokens", name).map(run => run.evaluation.by_position);
        return {i, dots: true, points: (lists[0] ?? []).map((b, k) => ({x: Math.sqrt((b.first + 1) * (b.last + 1)), y: mean(lists.map(l => l[k].loss_nats))}))};
      }),
      x: {label: "position in the context", log: 2, pad: .03, format: thousands, tip: v => "position " + thousands(v)},
      y: {label: "loss (nats)", format: axisLoss, tip: v => v.toFixed(4)}}),
  });
}
const axisLoss = (v, step) => v.toFixed(step < .0999 ? 2 : 1);
function recall(host) {
  const probes = [...new Map(R.runs.flatMap(run => run.evaluation?.recall ?? []).map(r => [JSON.stringify([r.probe, r.context]), r])).values()];
  if (!probes.length) return missing.push("recall");
  const stateAt = (c, context) => c.state_bytes.length ? c.state_bytes.reduce((a, b) => Math.abs(Math.log(b.length / context)) < Math.abs(Math.log(a.length / context)) ? b : a) : null;
  card(host, {
    title: "Recall against state", sub: "What a contender can find again, and the bytes it keeps to do so. Up and left is better.",
    controls: [{key: "probe", label: "Probe", options: probes.map(r => ({value: JSON.stringify([r.probe, r.context]), label: `${r.probe}, ${thousands(r.context)}`}))}],
    build: state => {
      const [probe, context] = JSON.parse(state.probe);
      return {scatter: true, guess: probes.find(r => r.probe === probe && r.context === context)?.chance,
        series: R.contenders.map((c, i) => {
          const found = judged("tokens", c.name).flatMap(run => run.evaluation.recall ?? []).filter(r => r.probe === probe && r.context === context).map(r => r.accuracy);
          const size = stateAt(c, context);
          return {i, points: found.length && size?.bytes > 0 ? [{x: size.bytes, y: mean(found), detail: [["accuracy", percent(mean(found))], [`state at ${thousands(size.length)}`, bytes(size.bytes)]]}] : []};
        }),
        x: {label: "state of one sequence", log: 2, format: v => bytes(v)}, y: {label: "accuracy", min: 0, max: 1.04, format: v => plain(100 * v, 3) + "\u202f%"}};
    },
  });
}
function speedChart(host, title, sub, list, y, what, options = {}) {
  if (!R.contenders.some(c => list(c).length)) return missing.push(what);
  const batches = [...new Set(R.contenders.flatMap(c => list(c).map(p => p.batch ?? 0)))].sort((a, b) => a - b);
  const lengths = [...new Set(R.contenders.flatMap(c => list(c).map(p => p.x)))].sort((a, b) => a - b);
  card(host, {
    title, sub, controls: batches.length > 1 ? [{key: "batch", label: "Batch", options: batches.map(b => ({value: String(b), label: "batch " + b}))}] : [],
    build: state => ({exact: true, highFirst: true,
      series: R.contenders.map((c, i) => ({i, dots: true, points: list(c).filter(p => !state.batch || String(p.batch) === state.batch)})),
      x: {label: options.x ?? "length", log: 2, ticks: lengths, pad: .03, format: thousands, tip: v => `${options.x ?? "length"} ${thousands(v)}`}, y}),
  });
}
const missing = [];
function drawAll() {
  const host = document.getElementById("cards");
  trainingCurves(host);
  learningRates(host);
  byPosition(host);
  recall(host);
  speedChart(host, "State by length", "Bytes that one sequence keeps between tokens.", c => c.state_bytes.filter(p => p.bytes > 0).map(p => ({x: p.length, y: p.bytes})),
    {label: "state", log: 2, format: v => bytes(v)}, "the size of states");
  speedChart(host, "Training speed by context", `Tokens per second${R.device ? " on " + R.device : ""}.`, c => c.training_speed.map(p => ({x: p.context, y: p.tokens_per_s})),
    {label: "tokens per second", min: 0, format: v => si(v)}, "the speed of training", {x: "context"});
  speedChart(host, "Decoding speed by length", `Tokens per second${R.device ? " on " + R.device : ""}.`, c => c.decoding.map(p => ({x: p.length, y: p.tokens_per_s, batch: p.batch})),
    {label: "tokens per second", min: 0, format: v => si(v)}, "the speed of decoding");
  if (missing.length) document.getElementById("missing").textContent = `Not measured, so without a chart: ${missing.join(", ")}.`;
}

// Results at each budget: a dot per contender, with its interval. Filled: the best, or not distinguishable from it.
function forest() {
  const host = document.getElementById("forest");
  const values = S.flatMap(s => s.contenders.filter(c => c.mean != null && !c.not_ranked).flatMap(c => [c.mean - (c.half_width ?? 0), c.mean + (c.half_width ?? 0)]));
  if (!values.length) return host.remove();
  const [low, high] = domain(values, {}, .06);
  for (const s of S) {
    const chart = el("div", {class: "chart"}), caption = el("p", {class: "sub"});
    const title = s.title[0].toUpperCase() + s.title.slice(1);
    host.append(el("article", {class: "card"}, el("h3", {}, title), caption, chart));
    caption.textContent = isTask ? "Final accuracy; right is better." : "Final loss in nats; left is better.";
    caption.textContent += s.has_intervals ? " Filled: best, or not distinguishable from it." : " One seed: no interval.";
    const ranked = s.contenders.filter(c => c.mean != null && !c.not_ranked), others = s.contenders.filter(c => c.not_ranked);
    const draw = () => {
      const width = chart.clientWidth, step = 34, bottom = ranked.length * step + 6;
      chart.replaceChildren();
      const label = Math.min(width * .36, Math.max(...ranked.map(c => measure(short(c.name)))) + 26), value = isTask ? 62 : 56;
      const x = scale({}, low, high, label + 6, width - value - 10);
      const svg = el("svg", {class: "plot", height: bottom + 22, viewBox: `0 0 ${width} ${bottom + 22}`, role: "img", "aria-label": `${title}: ${ranked.map(c => `${c.name} ${metricText(c.mean)}`).join(", ")}`});
      const {ticks, step: tick} = linearTicks(low, high, Math.max(2, Math.floor((width - value - label) / 70)));
      for (const v of ticks) svg.append(el("line", {class: "grid", x1: x(v), x2: x(v), y1: 0, y2: bottom}), el("text", {x: x(v), y: bottom + 17, "text-anchor": "middle"}, axisMetric(v, tick)));
      ranked.forEach((c, k) => {
        const i = names.indexOf(c.name), cy = k * step + step / 2, leads = s.leaders.includes(c.name);
        const filled = leads || (s.has_intervals && s.indistinguishable.includes(c.name));
        if (c.half_width != null) {
          const a = x(c.mean - c.half_width), b = x(c.mean + c.half_width);
          svg.append(el("path", {d: `M${a} ${cy}H${b}M${a} ${cy - 5}V${cy + 5}M${b} ${cy - 5}V${cy + 5}`, stroke: color(i), "stroke-width": 2, fill: "none"}));
        }
        svg.append(shape(i, 6, x(c.mean), cy, !filled), el("text", {x: 0, y: cy + 4, style: `fill:${color(i)};font-weight:${leads ? 800 : 500};font-size:13px`}, short(c.name)),
          el("text", {x: width, y: cy + 4, "text-anchor": "end", style: `fill:var(--ink);font-weight:${leads ? 800 : 400};font-size:13px`}, metricText(c.mean)));
      });
      chart.append(svg);
      for (const c of others) chart.append(el("p", {class: "note"}, `${c.name}: ${c.not_ranked}`));
    };
    redraws.push(draw);
    draw();
  }
}

function legend() {
  const host = document.getElementById("legend");
  const refresh = () => {
    for (const button of host.querySelectorAll("[data-i]")) button.setAttribute("aria-pressed", String(!hidden.has(Number(button.dataset.i))));
    redraws.forEach(draw => draw());
  };
  names.forEach((name, i) => {
    const button = el("button", {type: "button", "data-i": i, "aria-pressed": "true", title: "Show or hide"}, swatch(i), name);
    button.addEventListener("click", () => { hidden.has(i) ? hidden.delete(i) : hidden.add(i); refresh(); });
    host.append(button);
  });
  const all = el("button", {type: "button", class: "all"}, "show all");
  all.addEventListener("click", () => { hidden.clear(); refresh(); });
  host.append(all);
}

forest();
legend();
drawAll();
for (const cell of document.querySelectorAll("tbody th")) {
  const i = names.indexOf(cell.textContent);
  if (i >= 0) cell.prepend(swatch(i));
}
let lastWidth = innerWidth;
addEventListener("resize", () => { if (innerWidth !== lastWidth) lastWidth = innerWidth, redraws.forEach(draw => draw()); });
