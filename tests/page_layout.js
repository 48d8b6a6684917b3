// What overlaps, is cut or leaves the page; with an argument, also the edges that cross a card.
const wide = document.documentElement;
const out = [];
if (wide.scrollWidth > wide.clientWidth) out.push(`the page is ${wide.scrollWidth} wide`);
const rects = [...document.querySelectorAll('.card')].map((c) => c.getBoundingClientRect());
rects.forEach((a, i) => rects.slice(i + 1).forEach((b, j) => {
  if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) out.push(`cards ${i}, ${i + 1 + j}`);
}));
for (const e of document.querySelectorAll('.card, .card > *, .who > *, .lane-head > *, .order, .total, h1, h2, label, .about, dd, dt')) {
  if (getComputedStyle(e).display === 'none' || !e.getClientRects().length) continue;
  const r = e.getBoundingClientRect();
  const own = document.createRange();
  own.selectNodeContents(e);
  const text = own.getBoundingClientRect();
  const inside = [...e.children].filter((x) => x.getClientRects().length && getComputedStyle(x).position !== 'absolute');
  if (inside.some((x) => x.getBoundingClientRect().bottom > r.bottom + 1)) out.push(`cut below: ${e.className} ${e.textContent}`);
  if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth) out.push(`cut: ${e.className} ${e.textContent}`);
  if (text.width && (text.right > Math.max(r.right, 0) + 1 || r.right > wide.clientWidth + 1)) out.push(`out: ${e.className} ${e.textContent}`);
}
const edges = arguments[0] ? [...document.querySelectorAll("#edges > .edge")] : [];
const some = Math.ceil(edges.length / 40); // of many edges every so manieth is followed: it takes long
for (const path of edges.filter((_, i) => i % some === 0)) {
  const origin = document.getElementById('canvas').getBoundingClientRect();
  const length = path.getTotalLength();
  for (let s = 6; s < length - 6; s += 40) {
    const p = path.getPointAtLength(s);
    const [x, y] = [p.x + origin.left, p.y + origin.top];
    const hit = rects.find((r) => x > r.left + 2 && x < r.right - 2 && y > r.top + 3 && y < r.bottom - 3);
    if (hit) { out.push(`an edge crosses a card at ${x}, ${y}`); break; }
  }
}
return out;
