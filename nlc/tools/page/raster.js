// The raster: a row for what ticks together, marks where it does, and the sliders that change periods.

const LONGEST = 1048576; // ticks that a slider offers
const MARK = { top: 5, height: 14, bottom: 24 };

/** Values a slider steps over: 1, 2, 3, 4, 6, 8, 12, …, its own start among them. */
function ladder(start, low, high) {
  const all = new Set([start]);
  for (let n = 1; n <= high; n *= 2) for (const x of [n, (n * 3) / 2]) if (Number.isInteger(x)) all.add(x);
  return [...all].filter((n) => n >= low && n <= high).sort((a, b) => a - b);
}

function slider(label, about, start, [low, high], change) {
  const steps = ladder(start, low, Math.max(high, start));
  const id = `s${slider.made = (slider.made || 0) + 1}`;
  const range = element("input", { type: "range", id, min: 0, max: steps.length - 1, step: 1 });
  const exact = element("input", { type: "number", min: low, max: high, step: 1, "aria-label": `${label}, exact` });
  const say = (value) => {
    const nearest = steps.reduce((best, n, i) => (Math.abs(n - value) < Math.abs(steps[best] - value) ? i : best), 0);
    range.value = nearest;
    range.setAttribute("aria-valuetext", `${number(value)}`);
    exact.value = value;
  };
  let now = start;
  const put = (value) => {
    const sound = Number.isInteger(value) && value >= low && value <= high;
    if (sound) change((now = value));
    say(now);
  };
  range.addEventListener("input", () => put(steps[Number(range.value)]));
  exact.addEventListener("change", () => put(Number(exact.value)));
  say(start);
  const made = element("div", { class: "control" }, element("label", { for: id }, label), range, exact, element("span", { class: "about" }, about));
  return { made, put, start };
}

/** Names of a row, few enough for a line or two. */
function named(row) {
  const names = row.cards.map((i) => data.cards[i].name);
  const more = names.length - 4;
  return more > 0 ? `${names.slice(0, 4).join(", ")} +${more}` : names.join(", ");
}

/** One path for all marks of a kind; a band where they would run together. */
function marks(svg, ticks, width, kind) {
  const tall = { tick: [MARK.top, MARK.height], anchor: [MARK.top + MARK.height + 1, 4], reset: [0, 4] }[kind];
  const at = (p) => ((p - 0.5) / view.span) * width;
  if (ticks.always || ticks.unknown) {
    const style = ticks.always ? "always" : "unknown";
    drawing("rect", { x: 0, y: tall[0], width, height: tall[1], class: `band ${kind} ${style}` }, svg);
  } else if (ticks.count > width / 2.5) {
    const density = Math.min(1, ticks.count / (width * 4));
    const band = { x: 0, y: tall[0], width, height: tall[1], class: `band ${kind}`, "data-count": ticks.count };
    drawing("rect", { ...band, "fill-opacity": (0.45 + 0.55 * density).toFixed(2) }, svg);
  } else if (ticks.count) {
    const one = Math.min(5, (0.5 * width) / view.span / (ticks.each || 1)); // a tick of the base clock
    const stroke = Math.max(1.25, one, Math.min(2.5, (0.3 * width) / ticks.count));
    const d = ticks.at().map((p) => `M${at(p).toFixed(2)} ${tall[0]}v${tall[1]}`).join("");
    drawing("path", { d, class: `mark ${kind}`, "stroke-width": stroke, "data-count": ticks.count }, svg);
  }
}

function amount(tick, ticks) {
  if (ticks.always) return "always";
  if (ticks.unknown) return `as ${tick.name} says`;
  if (ticks.broken) return "no whole period";
  return several(ticks.count, "tick");
}

function plot(row, svg, width) {
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${MARK.bottom}`);
  drawing("rect", { x: 0, y: MARK.top, width, height: MARK.height, class: "ground" }, svg);
  if (STEPPED && view.span / view.step <= 64) {
    for (let p = view.step; p < view.span; p += view.step) {
      const x = (p / view.span) * width;
      drawing("path", { d: `M${x.toFixed(2)} 0v${MARK.bottom}`, class: "stepline" }, svg);
    }
  }
  const ticks = series(row.tick);
  if (!ticks.broken) marks(svg, ticks, width, "tick");
  if (row.anchor && !series(row.anchor).broken) marks(svg, series(row.anchor), width, "anchor");
  if (row.reset && !series(row.reset).broken) marks(svg, series(row.reset), width, "reset");
  const more = [row.anchor && `anchor ${clockText(row.anchor)}`, row.reset && `reset ${clockText(row.reset)}`];
  const scope = `${amount(row.tick, ticks)} in ${several(view.span, BASE)}`;
  svg.setAttribute("aria-label", [named(row), clockText(row.tick), scope, ...more.filter(Boolean)].join(", "));
  return amount(row.tick, ticks);
}

/** What nlc would refuse, or order anew, at these periods. */
function complaints() {
  const out = [];
  const whole = (tick) => tick && tick.kind === "every" && !tick.name && series(tick).broken;
  for (const row of data.rows) {
    if ([row.tick, row.anchor, row.reset].some(whole)) out.push(`${named(row)}: a period must be a whole number of ticks.`);
  }
  for (const fit of data.fits) {
    const [a, b] = [counted(fit.whole.count), counted(fit.part.count)];
    if (a % b) out.push(`${fit.code}: ${fit.said}, and ${number(a)} is not a multiple of ${number(b)}.`);
  }
  for (let i = 1; i < data.rows.length; i++) {
    const [upper, lower] = [data.rows[i - 1], data.rows[i]];
    if (before(rank(lower.tick), rank(upper.tick))) {
      out.push(`${named(lower)} now ticks more often than ${named(upper)}: nlc would order these levels anew.`);
    }
  }
  if (STEPPED && view.fresh) {
    for (const row of data.rows) {
      const t = row.tick;
      const n = t.kind === "every" && t.unit === "token" && !t.name ? counted(t.count) : 1;
      if (n > view.step && t.phase === "end") out.push(`${named(row)} never ticks: a sequence of ${number(view.step)} tokens ends before its period does.`);
    }
  }
  return out;
}

/** Who is at work at one position. */
function moment(p) {
  const at = { token: [], step: [] };
  for (const row of data.rows) {
    const ticks = series(row.tick);
    if (ticks.always || (ticks.has && ticks.has(p))) at[row.tick.unit === "step" ? "step" : "token"].push(named(row));
    if (row.reset) {
      const reset = series(row.reset);
      if (reset.has && reset.has(p)) at[row.reset.unit === "step" ? "step" : "token"].push(`${named(row)} (reset)`);
    }
  }
  const step = STEPPED ? ` of step ${number(Math.ceil(p / view.step))}` : "";
  const all = [...at.token, ...at.step];
  return `${BASE} ${number(p)}${step}: ${all.length ? all.join(", ") : "nothing ticks"}`;
}

function legendOfMarks(holder) {
  const kinds = [["tick", "ticks"], ["anchor", "its anchor moves"], ["reset", "it is reset"], ["step", "a step ends"]];
  const used = { tick: true, anchor: data.rows.some((r) => r.anchor), reset: data.rows.some((r) => r.reset), step: STEPPED };
  for (const [kind, text] of kinds) {
    if (!used[kind]) continue;
    const svg = drawing("svg", { width: 12, height: 22, class: "key", "aria-hidden": "true" });
    const d = { tick: "M6 4v14", anchor: "M6 18v4", reset: "M6 0v4", step: "M6 0v22" }[kind];
    drawing("path", { d, class: kind === "step" ? "stepline" : `mark ${kind}`, "stroke-width": 3 }, svg);
    holder.append(element("span", {}, svg, text));
  }
}
