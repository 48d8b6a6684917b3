// The least contrast of shown text with what lies behind it (WCAG 2, 1.4.3), and where; the argument: a dark canvas.
const parse = (c) => { const m = c.match(/[\d.]+/g).map(Number); return [m[0], m[1], m[2], m[3] ?? 1]; };
const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => {
  const x = c[i] / 255;
  return sum + w * (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
}, 0);
const canvas = (dark) => (dark ? [18, 18, 18, 1] : [255, 255, 255, 1]);
let worst = [21, ''];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !e.getClientRects().length || e.closest('script, noscript')) continue;
  const chain = [];
  for (let x = e; x; x = x.parentElement) chain.unshift(x);
  let back = canvas(arguments[0]), faded = 1;
  for (const x of chain) {
    const style = getComputedStyle(x);
    back = over(parse(style.backgroundColor), back);
    faded *= Number(style.opacity);
  }
  const ink = parse(getComputedStyle(e).color);
  ink[3] *= faded;
  const [a, b] = [light(over(ink, back)), light(back)].sort((p, q) => q - p);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < worst[0]) worst = [ratio, `${e.className || e.tagName}: ${walker.currentNode.data.slice(0, 40)}`];
}
return worst;
