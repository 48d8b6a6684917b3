// Clocks: how long a period is at the sliders' values, how that reads, and at which ticks it ends or starts.

const data = JSON.parse(document.getElementById("data").textContent);
const values = new Map(data.periods.map((p) => [p.key, p.value]));
const [BASE] = data.units; // what the raster counts: tokens, or steps where there are no tokens
const STEPPED = BASE === "token" && data.units.includes("step");
// `step`: tokens of an optimizer step; `fresh`: each step takes a new sequence, so periods start over
const view = { span: data.span, step: data.step, fresh: STEPPED };

const number = (n) => n.toLocaleString("en-US");
const several = (n, what) => `${number(n)} ${what}${n === 1 ? "" : "s"}`;

/** Ticks of the unit; not whole where the sliders' values do not divide. */
function counted(count) {
  let total = 0;
  for (const [up, down, hypers] of count.terms) {
    let term = up / down;
    for (const [key, exponent] of hypers) term *= values.get(key) ** exponent;
    total += term;
  }
  return total;
}

/** `every 64 tokens (chunk)`, as nlc prints a clock. */
function clockText(tick) {
  if (tick.kind === "infinite" || tick.kind === "never") return tick.kind;
  const n = counted(tick.count);
  const hyper = tick.count.fixed ? "" : ` (${tick.count.text})`;
  if (tick.kind === "per") return `${n} per ${tick.unit}${hyper}`;
  if (tick.name) return `every ${tick.name}`;
  if (n === 1) return `every ${tick.unit}${hyper}`;
  return `every ${n} ${tick.unit}s${tick.phase === "start" ? ", at the start" : ""}${hyper}`;
}

/** Whether the slower of two clocks is the one that should be: nlc's order, fastest first. */
function rank(tick) {
  if (tick.kind === "infinite") return [0, 0];
  if (tick.kind === "never") return [9, 0];
  const unit = tick.unit === "token" ? 1 : 3;
  if (tick.name) return [unit, Infinity];
  const n = counted(tick.count);
  return [unit, tick.kind === "every" ? n : 1 / n];
}

const before = (a, b) => a[0] < b[0] || (a[0] === b[0] && a[1] < b[1]);

/** Of `length` ticks of a unit, those in which a period of n ends, or starts. */
function fits(length, n, phase) {
  return phase === "start" ? Math.ceil(length / n) : Math.floor(length / n);
}

/**
 * The ticks of a clock within the span, as positions in the raster's unit from 1 on.
 * `count` of them; `at()` lists them; `has(p)` says whether one is at p. Both are absent for what no clock says.
 */
function series(tick, { span, step, fresh } = view) {
  if (tick.kind === "never") return { count: 0, at: () => [], has: () => false };
  if (tick.kind === "infinite") return { always: true };
  if (tick.name) return { unknown: true };
  const n = counted(tick.count);
  if (!(n >= 1) || !Number.isInteger(n)) return { broken: true };
  if (tick.kind === "per") {
    const at = () => Array.from({ length: span * n }, (_, i) => Math.floor(i / n) + ((i % n) + 0.5) / n + 0.5);
    return { count: span * n, each: n, at, has: () => true };
  }
  const slow = STEPPED && tick.unit === "step"; // its ticks stand `step` tokens apart, behind the last of them
  const scale = slow ? step : 1;
  const region = !slow && STEPPED && fresh ? step : Infinity;
  const length = Math.floor(span / scale);
  const offset = tick.phase === "start" ? 1 : n;
  const whole = Math.floor(length / region) || 0;
  const rest = region === Infinity ? length : length % region;
  const count = whole * (region === Infinity ? 0 : fits(region, n, tick.phase)) + fits(rest, n, tick.phase);
  const at = () => {
    const out = [];
    for (let start = 0; start < length; start += region) {
      for (let t = start + offset; t <= Math.min(start + region, length); t += n) out.push(t * scale);
      if (region === Infinity) break;
    }
    return out;
  };
  const has = (p) => {
    if (p % scale) return false;
    const t = region === Infinity ? p / scale : ((p - 1) % region) + 1;
    return (t - offset) % n === 0 && t >= offset;
  };
  return { count, at, has };
}
