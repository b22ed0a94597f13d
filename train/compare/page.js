// What the charts of report.html show. The numbers come from the JSON in the page; names only ever become text nodes.
const judged = (budget, name) => (S.find(s => s.budget === budget)?.contenders.find(c => c.name === name)?.runs ?? []).map(run => runs.get(run));
const budgetWords = {tokens: "Same tokens", flops: "Same FLOPs", time: "Same time"};
const axes = {
  tokens: {label: "tokens", format: v => si(v), of: run => 1},
  flops: {label: "training FLOPs", format: v => si(v), of: run => run.training_flops / run.tokens},
  time: {label: "training time", format: seconds, of: run => run.seconds / run.tokens},
};
function smoothed(points) {
  const half = Math.floor(points.length / 30);
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
// "Value" or "difference to the baseline": what is near together is told apart in the second.
const relativeControl = {key: "view", label: "Value or difference", options: [{value: "value", label: "value"}, {value: "relative", label: "minus " + R.baseline}]};
const base = names.indexOf(R.baseline);
function minusBaseline(series) {
  const of = series.find(s => s.i === base).points;
  const minus = points => points.map(p => ({...p, y: p.y - (valueAt(of, p.x) ?? NaN)}));
  return series.map(s => ({...s, points: minus(s.points), thin: s.thin?.map(minus)}));
}
const signed = text => v => (v > 0 ? "+" : "") + text(v);
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
      {key: "budget", label: "Budget", options: R.budgets.map(b => ({value: b, label: budgetWords[b].replace("S", "s")})), then: state => state.x = state.budget},
      {key: "x", label: "Horizontal axis", options: [{value: "tokens", label: "tokens"}, {value: "flops", label: "FLOPs"}, {value: "time", label: "time"}]},
      relativeControl,
      {key: "zoom", label: "Part of the run", initial: "late", options: [{value: "all", label: "whole run"}, {value: "late", label: "last ¾"}]},
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
      const isRelative = state.view === "relative", shownSeries = isRelative ? minusBaseline(series) : series;
      const end = Math.max(...shownSeries.flatMap(s => s.points.filter(p => Number.isFinite(p.y)).map(p => p.x)), 0), from = state.zoom === "late" ? end / 4 : 0;
      const isAccuracy = state.measure === "accuracy";
      return {height: 420, series: shownSeries, xFrom: from, highFirst: isAccuracy,
        x: {label: axis.label, format: axis.format, min: from, max: end, tip: v => `${axis.format(v)}${state.x === "time" ? "" : " " + axis.label}`},
        y: {label: isRelative ? `${shown.title} minus ${R.baseline}’s` : shown.title, format: isAccuracy ? v => plain(100 * v, 3) + "\u202f%" : axisLoss,
          tip: (isRelative ? signed : f => f)(isAccuracy ? percent : v => v.toFixed(4))}};
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
  const all = R.runs.flatMap(run => run.evaluation?.by_position ?? []);
  if (!all.length) return missing.push("loss by position");
  const place = b => Math.sqrt((b.first + 1) * (b.last + 1));  // positions are shown from 1
  const buckets = new Map(all.map(b => [place(b), b.first === b.last ? `position ${thousands(b.first + 1)}` : `positions ${thousands(b.first + 1)} to ${thousands(b.last + 1)}`]));
  card(host, {
    title: "Loss by position", sub: "How much a longer past helps. Mean over seeds, same tokens.",
    controls: names.length > 1 ? [relativeControl] : [],
    build: state => ({exact: true,
      series: (state.view === "relative" ? minusBaseline : s => s)(names.map((name, i) => {
        const lists = judged("tokens", name).map(run => run.evaluation.by_position);
        return {i, dots: true, points: (lists[0] ?? []).map((b, k) => ({x: place(b), y: mean(lists.map(l => l[k].loss_nats))}))};
      })),
      x: {label: "position in the context", log: 2, pad: .03, format: thousands, tip: v => buckets.get(v)},
      y: {label: state.view === "relative" ? `loss minus ${R.baseline}’s` : "loss (nats)", format: axisLoss, tip: (state.view === "relative" ? signed : f => f)(v => v.toFixed(4))}}),
  });
}
function recall(host) {
  const probes = [...new Map(R.runs.flatMap(run => run.evaluation?.recall ?? []).map(r => [JSON.stringify([r.probe, r.context]), r])).values()];
  if (!probes.length) return missing.push("recall");
  const stateAt = (c, context) => c.state_bytes.length ? c.state_bytes.reduce((a, b) => Math.abs(Math.log(b.length / context)) < Math.abs(Math.log(a.length / context)) ? b : a) : null;
  card(host, {
    title: "Recall against state", sub: "What is found again, with how many bytes. Up and left is better.",
    controls: [
      {key: "probe", label: "Probe", options: [...new Set(probes.map(r => r.probe))].map(value => ({value, label: value}))},
      {key: "context", label: "Context", options: [...new Set(probes.map(r => r.context))].sort((a, b) => a - b).map(n => ({value: String(n), label: "context " + thousands(n)}))},
    ],
    build: state => {
      const probe = state.probe, context = Number(state.context);
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
  speedChart(host, "State by length", "Bytes that one sequence keeps between tokens.", c => c.state_bytes.filter((p, k, all) => p.bytes > 0 && all.findIndex(q => q.length === p.length) === k).map(p => ({x: p.length, y: p.bytes})),
    {label: "state", log: 2, format: v => bytes(v)}, "the size of states");
  speedChart(host, "Training speed by context", `Tokens per second${R.device ? " on " + R.device : ""}.`, c => c.training_speed.map(p => ({x: p.context, y: p.tokens_per_s})),
    {label: "tokens per second", min: 0, format: v => si(v), tip: v => thousands(v)}, "the speed of training", {x: "context"});
  speedChart(host, "Decoding speed by length", `Tokens per second${R.device ? " on " + R.device : ""}.`, c => c.decoding.map(p => ({x: p.length, y: p.tokens_per_s, batch: p.batch})),
    {label: "tokens per second", min: 0, format: v => si(v), tip: v => thousands(v)}, "the speed of decoding");
  if (missing.length) document.getElementById("missing").textContent = `Not measured, so without a chart: ${missing.join(", ")}.`;
}

// Results at each budget: a dot per contender, with its interval. Filled: the best, or not distinguishable from it.
function forest() {
  const host = document.getElementById("forest");
  const isRanked = c => c.mean != null && !c.not_ranked;
  const reach = c => [c.mean - (c.half_width ?? 0), c.mean + (c.half_width ?? 0)].map(v => isTask ? Math.min(1, Math.max(0, v)) : v);
  const values = S.flatMap(s => s.contenders.filter(isRanked).flatMap(reach));
  if (!values.length) return host.remove();
  const [low, high] = domain(values, {}, .05), order = S[0].contenders.map(c => c.name), step = 32;
  const has = S.some(s => s.has_intervals), chart = el("div", {class: "chart"});
  host.append(el("article", {class: "card"}, el("h3", {}, `Final ${metricName} at each budget`), el("p", {class: "sub"},
    (isTask ? "Right is better. " : "Nats per token; left is better. ") + (has ? "Bars: 95 % intervals. Filled: the best, and what is not distinguishable from it." : "One seed: no interval.")), chart));
  const panel = (svg, s, top, left, right) => {
    const bottom = top + order.length * step, edge = right - (isTask ? 70 : 62), x = scale({}, low, high, left, edge);
    const {ticks, step: tick} = linearTicks(low, high, Math.min(8, Math.max(2, Math.floor((edge - left) / 56))));
    svg.append(el("text", {class: "panel-title", x: left, y: top - 12}, s.title[0].toUpperCase() + s.title.slice(1)));
    for (const v of ticks) svg.append(el("line", {class: "grid", x1: x(v), x2: x(v), y1: top, y2: bottom}), el("text", {x: x(v), y: bottom + 17, "text-anchor": "middle"}, axisMetric(v, tick)));
    for (const c of s.contenders) {
      const i = names.indexOf(c.name), y = top + order.indexOf(c.name) * step + step / 2, leads = s.leaders.includes(c.name);
      if (!isRanked(c)) {
        svg.append(el("text", {x: left, y: y + 4}, fitted(c.not_ranked, right - left)));
        continue;
      }
      const [a, b] = reach(c).map(x);
      if (c.half_width != null) svg.append(el("path", {d: `M${a} ${y}H${b}` + (b - a > 14 ? `M${a} ${y - 6}V${y + 6}M${b} ${y - 6}V${y + 6}` : ""), stroke: color(i), "stroke-width": 2, fill: "none"}));
      svg.append(shape(i, 5, x(c.mean), y, s.has_intervals && !leads && !s.indistinguishable.includes(c.name)),
        el("text", {class: leads ? "value best" : "value", x: right, y: y + 4, "text-anchor": "end"}, metricText(c.mean)));
    }
  };
  const draw = () => {
    const width = chart.clientWidth, label = Math.min(width * .3, Math.max(...order.map(measure)) + 28), isWide = width > 760;
    const rows = order.length * step + 62, height = isWide ? rows : rows * S.length;
    const svg = el("svg", {class: "plot", height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": S.map(s => `${s.title}: ${s.contenders.filter(isRanked).map(c => `${c.name} ${metricText(c.mean)}`).join(", ")}`).join("; ")});
    const each = (width - label + 28) / S.length;
    S.forEach((s, k) => {
      const top = 36 + (isWide ? 0 : k * rows), left = isWide ? label + k * each : label;
      if (!isWide || k === 0) order.forEach((name, row) => svg.append(
        el("line", {class: "grid", x1: 0, x2: width, y1: top + row * step, y2: top + row * step}),
        el("text", {class: "name", x: 0, y: top + row * step + step / 2 + 4, style: `fill:${textColor(names.indexOf(name))}`}, fitted(name, label - 10))));
      panel(svg, s, top, left, isWide ? left + each - 28 : width);
    });
    chart.replaceChildren(svg);
  };
  whenSized(chart, draw);
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
