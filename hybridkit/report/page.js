"use strict";
const value = (cell) => {
  const text = cell.dataset.value ?? cell.textContent;
  return text.trim() ? Number(text) : NaN;
};
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th").forEach((head, column) => {
    const button = head.querySelector("button");
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const words = (one, other) => one.textContent.localeCompare(other.textContent, "en", { numeric: true });
      const order = (a, b) => {
        const [one, other] = [a.cells[column], b.cells[column]], [x, y] = [value(one), value(other)];
        if (isNaN(x) !== isNaN(y)) return isNaN(x) - isNaN(y);  // what is no number stands last, both ways
        return (up ? 1 : -1) * (isNaN(x) ? words(one, other) : x - y);
      };
      [...body.rows].sort(order).forEach((row) => body.append(row));
    });
  });
}
const shown = (number) => Number(number.toPrecision(5)).toLocaleString("en", { maximumSignificantDigits: 5 });
for (const figure of document.querySelectorAll("figure")) {
  const svg = figure.querySelector("svg");
  const lines = JSON.parse(figure.querySelector("script").textContent);
  const hint = Object.assign(document.createElement("div"), { className: "hint", hidden: true });
  const dot = Object.assign(document.createElement("div"), { className: "dot", hidden: true });
  if (lines.length) figure.append(hint, dot);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), frame = figure.getBoundingClientRect();
    let best = null, least = 30;
    for (const line of lines) for (const [right, down, x, y] of line.points) {
      const far = Math.hypot(box.left + right * box.width - event.clientX, box.top + down * box.height - event.clientY);
      if (far < least) { least = far; best = { line, right, down, x, y }; }
    }
    hint.hidden = dot.hidden = !best;
    if (!best) return;
    const [left, top] = [best.right * box.width + box.left - frame.left, best.down * box.height + box.top - frame.top];
    hint.textContent = `${best.line.name}\n${best.line.x}: ${shown(best.x)}\n${best.line.y}: ${shown(best.y)}`;
    Object.assign(dot.style, { left: `${left}px`, top: `${top}px` });
    const room = frame.width - hint.offsetWidth - 4;
    Object.assign(hint.style, { left: `${Math.max(0, Math.min(left + 12, room))}px`, top: `${top + 12}px` });
  });
  const hide = () => { hint.hidden = dot.hidden = true; };
  svg.addEventListener("pointerleave", hide);
  svg.parentElement.addEventListener("scroll", hide);
  const source = () => {
    const style = getComputedStyle(document.documentElement);
    const copy = svg.cloneNode(true);
    const [, , width, height] = svg.getAttribute("viewBox").split(" ");
    copy.setAttribute("width", width);
    copy.setAttribute("height", height);
    const text = new XMLSerializer().serializeToString(copy);
    return text.replace(/var\((--\w+)\)/g, (_, name) => style.getPropertyValue(name).trim());
  };
  const save = (url, ending) => {
    const link = Object.assign(document.createElement("a"), { href: url, download: `${figure.id}.${ending}` });
    link.click();
  };
  const saves = {
    svg: () => save(URL.createObjectURL(new Blob([source()], { type: "image/svg+xml" })), "svg"),
    png: () => {
      const image = new Image();
      image.onload = () => {
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [image.width * 3, image.height * 3];
        const context = canvas.getContext("2d");
        context.fillStyle = getComputedStyle(document.body).backgroundColor;
        context.fillRect(0, 0, canvas.width, canvas.height);
        context.drawImage(image, 0, 0, canvas.width, canvas.height);
        canvas.toBlob((blob) => save(URL.createObjectURL(blob), "png"));
      };
      image.src = URL.createObjectURL(new Blob([source()], { type: "image/svg+xml" }));
    },
  };
  figure.querySelectorAll("button").forEach((button) => button.addEventListener("click", saves[button.dataset.save]));
}
const folded = document.querySelectorAll("details:not([open])");
addEventListener("beforeprint", () => folded.forEach((part) => { part.open = true; }));
addEventListener("afterprint", () => folded.forEach((part) => { part.open = false; }));
