// The panel of one component: its derived update, why it runs as it does, what it costs, and its lines.

const KEYWORDS = /^(?:def|return|if|else|elif|for|in|not|and|or|is|with|as|raise|None|True|False|lambda|class|import|from|self)$/;
const TOKENS = /(#.*$)|("(?:[^"\\]|\\.)*"?)|([A-Za-z_]\w*)|(\d[\d._e-]*)/g;

/** A line of code with its comments, strings, keywords and numbers marked. */
function coloured(text) {
  const out = element("code");
  let done = 0;
  for (const found of text.matchAll(TOKENS)) {
    const [all, comment, string, word, digits] = found;
    const kind = comment ? "c" : string ? "s" : word && KEYWORDS.test(word) ? "k" : digits ? "n" : "";
    if (!kind) continue;
    out.append(text.slice(done, found.index), element("span", { class: `t-${kind}` }, all));
    done = found.index + all.length;
  }
  out.append(text.slice(done));
  return out;
}

/** Lines of a file, with a gap where some are left out; `whole` shows all and marks these. */
function listing(file, runs, whole, label) {
  const pre = element("pre", { class: "code", tabindex: 0, role: "region", "aria-label": label });
  const mine = new Map();
  for (const run of runs) for (let n = run.first; n <= run.last; n++) mine.set(n, run);
  const numbers = whole ? file.lines.map((_, i) => i + 1) : [...mine.keys()];
  const digits = String(numbers.at(-1) || 1).length;
  // what all lines are indented by is not shown, so that they fit
  const shown = numbers.map((n) => file.lines[n - 1]).filter((line) => line.trim());
  const indent = whole ? 0 : Math.min(...shown.map((line) => line.length - line.trimStart().length));
  let last = numbers[0] - 1;
  for (const n of numbers) {
    if (n !== last + 1) pre.append(element("span", { class: "gap", "aria-hidden": true }, "⋯\n"));
    const run = mine.get(n);
    const shared = run && run.others.length > 0;
    const classes = ["line", whole && !run ? "other" : "", shared ? "shared" : ""].filter(Boolean).join(" ");
    const line = element("span", { class: classes, title: shared ? `also of ${run.others.join(", ")}` : null });
    line.dataset.n = String(n).padStart(digits);
    line.append(coloured(file.lines[n - 1].slice(indent)), "\n");
    pre.append(line);
    last = n;
  }
  return pre;
}

function copier(text) {
  const button = element("button", { type: "button", class: "quiet small" }, "Copy");
  button.addEventListener("click", async () => {
    let said = "Copied";
    try {
      await navigator.clipboard.writeText(text());
    } catch {
      said = "Not allowed here";
    }
    button.textContent = said;
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}

function section(title, ...content) {
  const kept = content.filter(Boolean);
  return kept.length ? element("section", {}, element("h3", {}, title), ...kept) : null;
}

function pairs(list, style) {
  if (!list.length) return null;
  const out = element("dl", { class: style });
  for (const [key, value] of list) {
    out.append(element("div", {}, key ? element("dt", {}, key) : null, element("dd", {}, value)));
  }
  return out;
}

function source(title, number, runs, kept) {
  if (number === null || !runs.length) return null;
  const file = data.files[number];
  const holder = element("div");
  const box = element("input", { type: "checkbox" });
  const others = [...new Set(runs.flatMap((r) => r.others))].sort();
  const text = () => runs.flatMap((r) => file.lines.slice(r.first - 1, r.last)).join("\n") + "\n";
  const show = () => {
    holder.replaceChildren(listing(file, runs, box.checked, `${title}, ${file.name}`));
    const first = holder.querySelector(".line:not(.other)");
    if (box.checked && first) holder.firstChild.scrollTop = first.offsetTop - holder.firstChild.offsetTop - 40;
  };
  box.addEventListener("change", show);
  const tools = [element("span", { class: "file" }, file.name)];
  tools.push(element("label", { class: "check" }, box, "whole file"), copier(() => (box.checked ? file.lines.join("\n") + "\n" : text())));
  show();
  const note = others.length ? element("p", { class: "note" }, `A dotted edge: lines that are also of ${others.join(", ")}.`) : null;
  return section(title, element("div", { class: "tools" }, ...tools), note, holder, kept);
}

/** Arrows to or from a card, each a button that goes to the other one. */
function neighbours(title, index, here, there, go) {
  const list = data.arrows.filter((a) => a[here] === index);
  if (!list.length) return null;
  const out = element("ul", { class: "near" });
  for (const arrow of list) {
    const button = element("button", { type: "button", class: "link" }, data.cards[arrow[there]].name);
    button.addEventListener("click", () => go(arrow[there]));
    const how = [...arrow.reads, ...arrow.transfer].join(" · ");
    out.append(element("li", {}, button, element("span", { class: `how ${colour(arrow)}` }, how)));
  }
  return section(title, out);
}

function fill(panel, index, go, close) {
  const card = data.cards[index];
  const d = card.detail;
  const closer = element("button", { type: "button", class: "quiet", "aria-label": `Close ${card.name}` }, "✕");
  closer.addEventListener("click", close);
  const title = element("h2", { id: "panel-title", tabindex: -1 }, card.name);
  const head = element("div", { class: "panel-head" }, element("div", {}, element("span", { class: `tag ${card.kind}` }, card.kind), title), closer);
  const clock = element("dd", { class: "live" });
  clock.textContent = clockText(card.tick);
  const facts = pairs([["shape", card.shape], ["state", card.size], ...card.law, ...d.notes].filter(([, v]) => v), "facts");
  facts.prepend(element("div", {}, element("dt", {}, "clock"), clock));
  const update = d.update.length ? element("div", { class: "math" }, ...d.update.map((line) => element("code", {}, line))) : null;
  const none = card.kind === "cache" ? "It takes no step: what it answers is solved anew for every query." : "";
  const steps = d.derivation.length ? element("ol", { class: "steps" }, ...d.derivation.map(([line, why]) => element("li", {}, element("code", {}, line), element("span", {}, why)))) : null;
  const parts = d.parts.length ? pairs(d.parts, "parts") : null;
  const faster = d.faster.length ? element("ul", { class: "plain" }, ...d.faster.map((f) => element("li", {}, f))) : null;
  const content = [
    head,
    card.doc ? element("p", { class: "doc" }, card.doc) : null,
    section("Derived update", update || (none ? element("p", {}, none) : null)),
    section("What it is", facts),
    section("Derivation", steps),
    section("Cost", pairs(d.costs, "costs")),
    section("Faster", faster),
    neighbours("Reads", index, "target", "source", go),
    neighbours("Read by", index, "source", "target", go),
    source("In the spec", d.spec, d.spec_lines),
    source("Generated lines", d.code, d.code_lines),
    section(card.kind === "trained" ? "The tensors it trains" : "Slow weights", parts),
  ];
  panel.replaceChildren(...content.filter(Boolean));
  panel.scrollTop = 0;
  return title;
}
