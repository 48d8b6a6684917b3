// Lines between cards: behind the cards, and over them for the card that is looked at.

const SVG = "http://www.w3.org/2000/svg";
const READS = ["same-tick", "previous-tick", "held"];
const TRANSFERS = ["conditioning", "backpropagation", "non-parametric", "initialisation", "generation"];

/** An element with attributes and children; text is never markup. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((c) => c !== null && c !== undefined && c !== ""));
  return made;
}

function drawing(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (parent) parent.append(made);
  return made;
}

const colour = (arrow) => arrow.transfer[0] || "conditioning";
const styled = (arrow) => `edge ${arrow.reads[0] || "same-tick"} ${colour(arrow)}`;

/** Where cards stand within the canvas. */
function boxes(canvas, cards) {
  const origin = canvas.getBoundingClientRect();
  return cards.map((card) => {
    const r = card.getBoundingClientRect();
    const [left, top] = [r.left - origin.left, r.top - origin.top];
    return { left, top, right: left + r.width, bottom: top + r.height, x: left + r.width / 2, y: top + r.height / 2 };
  });
}

/** Rows of cards as they are seen, from the top, each with the gaps between its cards and beside them. */
function bands(places, width) {
  const out = [];
  for (const box of [...places].sort((a, b) => a.top - b.top)) {
    const row = out.at(-1);
    if (row && Math.abs(row.top - box.top) < 2) {
      row.boxes.push(box);
      row.bottom = Math.max(row.bottom, box.bottom);
    } else out.push({ top: box.top, bottom: box.bottom, boxes: [box] });
  }
  for (const row of out) {
    const sorted = row.boxes.sort((a, b) => a.left - b.left);
    const edges = [-Infinity, ...sorted.flatMap((b) => [b.left, b.right]), Infinity];
    row.gaps = [];
    for (let i = 0; i < edges.length; i += 2) {
      const [left, right] = [Math.max(edges[i], ROOM.left) + 5, Math.min(edges[i + 1], width) - 5];
      if (right > left) row.gaps.push({ left, right, through: [] });
    }
    if (!row.gaps.length) row.gaps.push({ left: width, right: width, through: [] });
  }
  return out;
}

const ROOM = { left: 0 }; // where the numbers of lanes end

/** Numbers in order, at least `apart` from each other where there is room between `low` and `high`. */
function spread(wanted, low, high, apart) {
  const step = Math.min(apart, wanted.length > 1 ? (high - low) / (wanted.length - 1) : apart);
  const out = wanted.map((x) => Math.min(high, Math.max(low, x)));
  for (let i = 1; i < out.length; i++) out[i] = Math.max(out[i], out[i - 1] + step);
  const over = Math.max(0, (out.at(-1) ?? 0) - high);
  if (over) {
    out[out.length - 1] = high;
    for (let i = out.length - 2; i >= 0; i--) out[i] = Math.min(out[i], out[i + 1] - step);
  }
  return out;
}

/**
 * A path for each arrow. It leaves a card at the side that faces the other one, goes between the cards of the rows
 * on its way, and ends are spread along a side in the order of where they lead.
 */
function routes(places, arrows, width) {
  const rows = bands(places, width);
  const row = (box) => rows.findIndex((r) => r.boxes.includes(box));
  const ends = new Map();
  const joined = arrows.map((arrow) => {
    const [a, b] = [places[arrow.source], places[arrow.target]];
    const [i, j] = [row(a), row(b)];
    const [from, to] = j > i ? ["bottom", "top"] : j < i ? ["top", "bottom"] : a.x < b.x ? ["top", "top"] : ["bottom", "bottom"];
    const made = { arrow, a, b, from, to, via: [] };
    const way = Math.sign(j - i);
    for (let k = i + way; way && k !== j; k += way) {
      const x = a.x + ((b.x - a.x) * Math.abs(k - i)) / Math.abs(j - i);
      // of two gaps about as near, what goes down takes the right one and what goes up the left one
      const aside = (gap) => (way > 0 ? gap.right < x : gap.left > x) ? 40 : 0;
      const far = (gap) => Math.max(gap.left - x, x - gap.right, 0) + aside(gap);
      const gap = rows[k].gaps.reduce((best, g) => (far(g) < far(best) ? g : best));
      const point = { x, row: rows[k], down: way > 0 };
      gap.through.push({ point, order: x + (a.x + b.x) / 1e3 });
      made.via.push(point);
    }
    return made;
  });
  for (const gap of rows.flatMap((r) => r.gaps)) {
    gap.through.sort((p, q) => p.order - q.order);
    spread(gap.through.map((t) => t.point.x), gap.left, gap.right, 6).forEach((x, i) => (gap.through[i].point.x = x));
  }
  for (const made of joined) {
    const [first, last] = [made.via[0]?.x ?? made.b.x, made.via.at(-1)?.x ?? made.a.x];
    for (const [card, side, x, end] of [[made.arrow.source, made.from, first, "start"], [made.arrow.target, made.to, last, "end"]]) {
      const key = `${card} ${side}`;
      if (!ends.has(key)) ends.set(key, []);
      ends.get(key).push({ made, end, x });
    }
  }
  for (const [key, list] of ends) {
    const box = places[Number(key.split(" ")[0])];
    list.sort((p, q) => p.x - q.x);
    const half = (box.right - box.left) * 0.4;
    const wanted = list.map((_, i) => box.x + (i - (list.length - 1) / 2) * 16);
    spread(wanted, box.x - half, box.x + half, 16).forEach((x, i) => (list[i].made[list[i].end] = x));
  }
  return joined.map((r) => ({ arrow: r.arrow, d: curve(r) }));
}

function curve({ a, b, from, to, start, end, via }) {
  const [y1, y2] = [a[from], b[to]];
  if (from === to) {
    // within a row: an arc in the gap above the cards, or below them
    const lift = (from === "top" ? -1 : 1) * (14 + Math.min(12, Math.abs(end - start) / 50));
    return `M${start} ${y1}C${start} ${y1 + lift} ${end} ${y2 + lift} ${end} ${y2}`;
  }
  let d = `M${start} ${y1}`;
  let [x, y] = [start, y1];
  const bend = (toX, toY) => {
    const half = (toY - y) / 2;
    d += `C${x} ${y + half} ${toX} ${toY - half} ${toX} ${toY}`;
    [x, y] = [toX, toY];
  };
  for (const point of via) {
    const [enter, leave] = point.down ? [point.row.top - 4, point.row.bottom + 4] : [point.row.bottom + 4, point.row.top - 4];
    bend(point.x, enter);
    d += `V${leave}`;
    y = leave;
  }
  bend(end, y2);
  return d;
}

function markers(svg) {
  const defs = drawing("defs", {}, svg);
  for (const name of TRANSFERS) {
    const shape = { id: `${svg.id}-${name}`, viewBox: "0 0 8 8", refX: 7.5, refY: 4, orient: "auto-start-reverse" };
    const marker = drawing("marker", { ...shape, markerWidth: 7, markerHeight: 7, markerUnits: "userSpaceOnUse" }, defs);
    drawing("path", { d: "M0 0.6 8 4 0 7.4z", class: `tip ${name}` }, marker);
  }
}

function paint(svg, canvas, list) {
  svg.replaceChildren();
  markers(svg);
  svg.setAttribute("width", canvas.clientWidth);
  svg.setAttribute("height", canvas.clientHeight);
  for (const { arrow, d } of list) {
    drawing("path", { d, class: styled(arrow), "marker-end": `url(#${svg.id}-${colour(arrow)})` }, svg);
  }
}
