// What a person would miss on a report page, as a list of texts; tools/look.py runs this in the page.
(async () => {
  const wrong = [];
  const all = (what, within = document) => [...within.querySelectorAll(what)];
  const short = (text) => text.trim().replace(/\s+/g, " ").slice(0, 60);
  const page = document.documentElement;
  if (page.scrollWidth > innerWidth + 1) {
    const wide = all("body *").filter((one) => one.getBoundingClientRect().right > innerWidth + 1 &&
      !one.closest(".wide, .drawing"));
    wrong.push(`${page.scrollWidth} pixels wide in a window of ${innerWidth}: ${wide.slice(0, 3).map((one) => one.outerHTML.slice(0, 80))}`);
  }
  all("details").forEach((one) => { one.open = true; });

  // Texts stay inside their pictures, and are not tiny.
  for (const svg of all("figure svg")) {
    const frame = svg.getBoundingClientRect();
    for (const text of all("text", svg)) {
      const box = text.getBoundingClientRect();
      const out = Math.max(frame.left - box.left, box.right - frame.right, frame.top - box.top, box.bottom - frame.bottom);
      if (box.width && out > 3) wrong.push(`${svg.closest("figure").id}: "${short(text.textContent)}" is ${Math.round(out)} pixels outside`);
      const size = parseFloat(getComputedStyle(text).fontSize) * svg.getScreenCTM().a;
      if (size < 7.5) wrong.push(`${svg.closest("figure").id}: "${short(text.textContent)}" is ${size.toFixed(1)} pixels high`);
    }
  }

  // Contrast of text (WCAG 2.2) on the nearest background that is not transparent.
  const parts = (color) => (color.match(/[\d.]+/g) || []).map(Number);
  const bright = (color) => {
    const [r, g, b] = parts(color).map((part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if (parts(color)[3] !== 0 && color !== "transparent") return color;
    }
    return "rgb(255, 255, 255)";
  };
  // Numbers on the cells of a heatmap: tests/report/test_pictures.py knows the colours behind them.
  const onCell = (one) => one.closest("svg")?.querySelector("image") && /^[\d.]+$/.test(one.textContent.trim());
  const seen = new Set();
  for (const one of all("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || one.closest("script, style") || onCell(one)) continue;
    const style = getComputedStyle(one);
    const [front, back] = [one.closest("svg") ? style.fill : style.color, behind(one)];
    const [low, high] = [bright(front), bright(back)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05), key = `${front} on ${back}`;
    if (ratio < 4.5 && !seen.has(key)) { seen.add(key); wrong.push(`"${short(one.textContent)}": contrast ${ratio.toFixed(2)}, ${key}`); }
  }

  // A click on a heading sorts: numbers by their value, both ways.
  for (const table of all("table.sortable")) {
    const column = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
    const [button] = all("th button", table), before = column();
    button.click();
    const up = column();
    button.click();
    const down = column();
    if (up.slice().sort().join() !== before.slice().sort().join()) wrong.push("sorting loses rows");
    if (new Set(before).size > 1 && up.join() === down.join()) wrong.push(`a table does not sort: ${short(before.join(" "))}`);
  }

  // Each picture with lines says a value under the pointer, and each can be saved.
  for (const figure of all("figure")) {
    const lines = JSON.parse(figure.querySelector("script").textContent), svg = figure.querySelector("svg");
    const line = lines.find((one) => one.points.length);
    if (line) {
      const box = svg.getBoundingClientRect(), [right, down] = line.points[0];
      const at = { clientX: box.left + right * box.width, clientY: box.top + down * box.height };
      svg.dispatchEvent(new PointerEvent("pointermove", at));
      const hint = figure.querySelector(".hint");
      if (!hint || hint.hidden || !hint.textContent.includes(":")) wrong.push(`${figure.id}: no value under the pointer`);
      svg.dispatchEvent(new PointerEvent("pointerleave"));
    }
    for (const button of all("button[data-save]", figure)) {
      const saved = await new Promise((done) => {
        const click = HTMLAnchorElement.prototype.click;
        const end = (said) => { HTMLAnchorElement.prototype.click = click; done(said); };
        HTMLAnchorElement.prototype.click = function () { end(this); };
        setTimeout(() => end(null), 20000);
        button.click();
      });
      const kind = button.dataset.save;
      if (!saved) { wrong.push(`${figure.id}: not saved as ${kind}`); continue; }
      const blob = await (await fetch(saved.href)).blob();
      if (blob.size < 500) wrong.push(`${figure.id}: ${blob.size} bytes of ${kind}`);
      if (kind === "svg" && (await blob.text()).includes("var(--")) wrong.push(`${figure.id}: a saved picture needs the page`);
    }
  }
  return wrong;
})()
