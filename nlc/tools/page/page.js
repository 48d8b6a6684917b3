// The page: lanes and cards, what is looked at, keys, sliders, light and dark.

const $ = (id) => document.getElementById(id);
const state = { chosen: null, near: null, at: 1 };
const cards = [];
const clocks = []; // [element, () => text], told anew when a period changes

const MANY = 6; // cards in a lane that stand in columns
const DENSE = 24; // cards of which a shorter form is shown

// ---------------------------------------------------------------- lanes and cards

function card(index) {
  const c = data.cards[index];
  const line = (style, ...text) => (text.some(Boolean) ? element("span", { class: style }, ...text) : null);
  const clock = line("clock", clockText(c.tick));
  clocks.push([clock, () => clockText(c.tick)]);
  const made = element(
    "button",
    { type: "button", class: `card ${c.kind}`, tabindex: -1, "aria-expanded": "false", "aria-controls": "panel" },
    element("span", { class: "head" }, element("span", { class: "name" }, c.name || "(no name)"), element("span", { class: "kind" }, c.kind)),
    clock,
    line("shape", c.shape),
    line("size", c.size),
    ...c.law.map(([word, text]) => line(`law ${word}`, element("i", {}, word), " ", text)),
    element("span", { class: "badge", "aria-hidden": true })
  );
  made.dataset.index = index;
  cards[index] = made;
  return made;
}

function lane(level, i) {
  const head = element("div", { class: "lane-head" }, element("span", { class: "rank" }, String(i + 1)));
  const said = () => [...new Set(level.cards.map((c) => clockText(data.cards[c].tick)))].join(", ");
  const clock = element("span", { class: "lane-clock" }, said());
  clocks.push([clock, said]);
  head.append(clock);
  const many = level.cards.length > MANY ? "cards many" : "cards";
  const holder = element("div", { class: many, role: "group", "aria-label": `level ${i + 1}` }, ...level.cards.map(card));
  const made = element("li", { class: "lane" }, head, holder);
  if (i + 1 === data.lanes.length) return [made];
  const order = element("li", { class: "order" }, element("b", { "aria-label": "is faster than" }, "≻"), level.order ? element("span", {}, level.order) : null);
  return [made, order];
}

function legend() {
  const used = (key, all) => all.filter((name) => data.arrows.some((a) => a[key].includes(name)));
  const sample = (style) => {
    const svg = drawing("svg", { width: 30, height: 10, class: "key", "aria-hidden": "true" });
    drawing("path", { d: "M1 5h28", class: style }, svg);
    return svg;
  };
  const reads = used("reads", READS).map((r) => element("span", {}, sample(`edge ${r} plainly`), r));
  const transfers = used("transfer", TRANSFERS).map((t) => element("span", {}, sample(`edge thick ${t}`), t));
  const group = (title, items) => element("div", {}, element("b", {}, title), ...items);
  if (data.arrows.length) $("legend").append(group("A → B: B reads A", reads), group("knowledge passes by", transfers));
}

// ---------------------------------------------------------------- what is looked at

let lines = [];

function redraw() {
  if (!data.arrows.length) return;
  const [canvas, first] = [$("canvas"), cards[0].parentElement];
  ROOM.left = first.getBoundingClientRect().left - canvas.getBoundingClientRect().left;
  lines = routes(boxes(canvas, cards), data.arrows, canvas.clientWidth - 8);
  paint($("edges"), $("canvas"), lines);
  look();
}

/** Marks the card that the pointer or the focus is on, else the chosen one, its edges and who is at their other ends. */
function look() {
  const centre = state.near ?? state.chosen;
  const canvas = $("canvas");
  canvas.classList.toggle("looking", centre !== null);
  const mine = lines.filter(({ arrow }) => arrow.source === centre || arrow.target === centre);
  paint($("over"), canvas, mine);
  const said = new Map();
  for (const { arrow } of mine) {
    const other = arrow.source === centre ? arrow.target : arrow.source;
    const way = arrow.source === centre ? "reads it" : "is read";
    said.set(other, [...(said.get(other) || []), `${way}: ${[...arrow.reads, ...arrow.transfer].join(", ")}`]);
  }
  cards.forEach((made, i) => {
    made.classList.toggle("centre", i === centre);
    made.classList.toggle("related", said.has(i));
    made.title = said.has(i) ? said.get(i).join("\n") : "";
    const arrow = mine.find(({ arrow }) => (i === arrow.source || i === arrow.target) && i !== centre)?.arrow;
    made.querySelector(".badge").textContent = arrow ? `${arrow.source === centre ? "reads it" : "is read"}, ${arrow.reads.join(", ")}` : "";
    made.style.setProperty("--link", arrow ? `var(--${colour(arrow)})` : "");
  });
}

function choose(index, { focus = false } = {}) {
  state.chosen = index;
  const panel = $("panel");
  panel.hidden = index === null;
  $("split").classList.toggle("open", index !== null);
  cards.forEach((made, i) => {
    made.classList.toggle("chosen", i === index);
    made.setAttribute("aria-expanded", String(i === index));
  });
  if (index !== null) {
    rove(index);
    const title = fill(panel, index, (i) => { choose(i); cards[i].focus({ preventScroll: false }); }, close);
    if (focus) title.focus();
  }
  redraw();
  rasters();
  if (index !== null) cards[index].scrollIntoView({ block: "nearest" });
}

function close() {
  const index = state.chosen;
  if (index === null) return;
  state.near = null;
  choose(null);
  cards[index].focus();
}

/** One card is in the order of the tab key; arrows move between them. */
function rove(index) {
  for (const made of cards) made.tabIndex = -1;
  cards[index].tabIndex = 0;
}

/** The card that an arrow key leads to: the next of the lane, or the nearest one in the lane above or below. */
function next(index, key) {
  const level = data.lanes.findIndex((l) => l.cards.includes(index));
  const members = data.lanes[level].cards;
  const [place, wide] = [members.indexOf(index), key === "ArrowLeft" || key === "ArrowRight"];
  if (key === "Home") return members[0];
  if (key === "End") return members.at(-1);
  if (wide) return members[place + (key === "ArrowRight" ? 1 : -1)];
  const here = cards[index].getBoundingClientRect();
  const down = key === "ArrowDown";
  const beyond = (r) => (down ? r.top >= here.bottom - 1 : r.bottom <= here.top + 1);
  const far = (r) => Math.abs(r.top - here.top) * 4 + Math.abs(r.left - here.left);
  const found = cards.map((c, i) => [i, c.getBoundingClientRect()]).filter(([, r]) => beyond(r));
  return found.sort(([, a], [, b]) => far(a) - far(b))[0]?.[0];
}

function keys(event) {
  if (event.key === "Escape") return close();
  const index = cards.indexOf(document.activeElement);
  if (index < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    choose(index, { focus: true });
  } else if (/^(Arrow|Home$|End$)/.test(event.key)) {
    event.preventDefault();
    const to = next(index, event.key);
    if (to === undefined) return;
    rove(to);
    cards[to].focus();
    if (state.chosen !== null) choose(to);
  }
}

// ---------------------------------------------------------------- time

const rows = [];

function table() {
  const holder = $("rows");
  for (const row of data.rows) {
    const clock = element("span", { class: "clock" }, clockText(row.tick));
    clocks.push([clock, () => clockText(row.tick)]);
    const label = element("div", { class: "who", role: "rowheader" }, element("span", { class: "name" }, named(row)), clock);
    const svg = drawing("svg", { class: "plot", role: "img", preserveAspectRatio: "none" });
    const total = element("div", { class: "total", role: "cell" });
    const line = element("div", { class: "row", role: "row" }, label, element("div", { class: "cell", role: "cell" }, svg), total);
    rows.push({ row, svg, total, line });
    holder.append(line);
  }
  const scrub = element("input", { type: "range", id: "scrub", min: 1, step: 1, "aria-label": `look at a ${BASE}` });
  scrub.addEventListener("input", () => { state.at = Number(scrub.value); here(); });
  const axis = element("div", { class: "axis", id: "axis", "aria-hidden": true });
  holder.append(element("div", { class: "row foot", role: "presentation" }, element("div", { class: "who" }), element("div", { class: "cell" }, axis, scrub), element("div", { class: "total" }, `${BASE}s`)));
  holder.append(element("div", { class: "cursor", id: "cursor", "aria-hidden": true }));
  holder.addEventListener("pointermove", (event) => {
    if (!rows.length) return;
    const r = rows[0].svg.getBoundingClientRect();
    const share = (event.clientX - r.left) / r.width;
    if (share < 0 || share > 1 || event.target === scrub) return;
    state.at = Math.max(1, Math.ceil(share * view.span));
    here();
  });
}

function rasters() {
  if (!rows.length) return;
  const width = Math.max(60, Math.round(rows[0].svg.getBoundingClientRect().width));
  for (const { row, svg, total, line } of rows) {
    total.textContent = plot(row, svg, width);
    line.classList.toggle("chosen", row.cards.includes(state.chosen));
  }
  $("warning").textContent = complaints().join(" ");
  const labels = [0, 0.25, 0.5, 0.75, 1].map((share) => {
    const label = element("span", {}, number(Math.round(share * view.span)));
    label.style.left = `${share * 100}%`;
    label.style.transform = `translateX(${-share * 100}%)`;
    return label;
  });
  $("axis").replaceChildren(...labels);
  here();
}

/** What happens at the token, or step, that is looked at. */
function here() {
  state.at = Math.min(state.at, view.span);
  const scrub = $("scrub");
  scrub.max = view.span;
  scrub.value = state.at;
  const said = moment(state.at);
  scrub.setAttribute("aria-valuetext", said);
  $("readout").textContent = said;
  const [first, box] = [rows[0].svg.getBoundingClientRect(), $("rows").getBoundingClientRect()];
  const cursor = $("cursor");
  cursor.style.left = `${first.left - box.left + ((state.at - 0.5) / view.span) * first.width}px`;
  cursor.style.height = `${rows.at(-1).svg.getBoundingClientRect().bottom - box.top}px`;
}

function told() {
  for (const [made, text] of clocks) made.textContent = text();
  const live = $("panel").querySelector(".live");
  if (live && state.chosen !== null) live.textContent = clockText(data.cards[state.chosen].tick);
  redraw();
  rasters();
}

function controls() {
  const all = [];
  const put = (made) => { all.push(made); $("controls").append(made.made); };
  const twice = (name) => data.periods.filter((p) => p.name === name).length > 1;
  for (const p of data.periods) {
    const users = data.rows.filter((r) => [r.tick, r.anchor, r.reset].some((t) => t && t.count.terms.some(([, , hypers]) => hypers.some(([key]) => key === p.key))));
    const about = users.map(named).join("; ");
    put(slider(twice(p.name) ? `${p.of}: ${p.name}` : p.name, about, p.value, [1, LONGEST], (value) => { values.set(p.key, value); told(); }));
  }
  if (STEPPED) {
    put(slider("tokens a step", "of one optimizer step", data.step, [1, LONGEST], (value) => { view.step = value; rasters(); }));
  }
  put(slider(`${BASE}s shown`, "the span of the raster", data.span, [8, LONGEST], (value) => { view.span = value; rasters(); }));
  if (STEPPED) {
    const box = element("input", { type: "checkbox", id: "fresh" });
    box.checked = view.fresh;
    box.addEventListener("change", () => { view.fresh = box.checked; rasters(); });
    $("controls").append(element("label", { class: "check", for: "fresh" }, box, "every step takes a new sequence: periods start over"));
  }
  $("reset").addEventListener("click", () => {
    for (const made of all) made.put(made.start);
  });
}

// ---------------------------------------------------------------- light and dark

function theme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const say = () => ($("theme").textContent = dark() ? "Light" : "Dark");
  $("theme").addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; say(); });
  system.addEventListener("change", say);
  say();
}

// ---------------------------------------------------------------- start

$("app").hidden = false;
$("name").textContent = data.name;
$("docs").append(...data.docs.map((d) => element("p", { class: "doc" }, d)));
$("facts").textContent = data.facts.join(" · ");
$("canvas").classList.toggle("compact", data.cards.length > DENSE);
$("lanes").append(...data.lanes.flatMap(lane));
if (!data.cards.length) $("lanes").append(element("li", { class: "order" }, "no components"));
legend();
legendOfMarks($("marks"));
table();
controls();
theme();
if (cards.length) rove(0);
for (const [i, made] of cards.entries()) {
  made.addEventListener("click", () => (state.chosen === i ? close() : choose(i)));
  for (const on of ["pointerenter", "focus"]) made.addEventListener(on, () => { state.near = i; look(); });
  for (const off of ["pointerleave", "blur"]) made.addEventListener(off, () => { state.near = null; look(); });
}
document.addEventListener("keydown", keys);
new ResizeObserver(() => { redraw(); rasters(); }).observe($("canvas"));
new ResizeObserver(([{ contentRect }]) => $("split").style.setProperty("--still", `${contentRect.width}px`)).observe($("split"));
redraw();
rasters();
