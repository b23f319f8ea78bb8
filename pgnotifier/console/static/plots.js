// Lines over the last hour, drawn as SVG.
"use strict";

const HOUR = 3600;
const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function clock(at) {
  return new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

// The least of 1, 2 and 5 times a power of ten that isn't below the value.
function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((one) => one * power).find((one) => one >= value * 0.999);
}

// One line for each name: points is a list of objects that have `at` and numbers, or null.
function drawLines(box, points, names, format) {
  const width = Math.max(200, box.clientWidth), height = box.clientHeight || 150;
  const left = 52, bottom = 16, top = 6;
  const now = points.length ? points[points.length - 1].at : Date.now() / 1000;
  const begin = Math.max(now - HOUR, points.length ? Math.min(points[0].at, now - 60) : now - HOUR);
  const values = points.flatMap((one) => names.map((name) => one[name] ?? 0));
  const most = roundUp(Math.max(0, ...values));
  const x = (at) => left + (width - left - 4) * (at - begin) / (now - begin);
  const y = (value) => top + (height - top - bottom) * (1 - value / most);
  const made = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  for (const part of [0, 0.5, 1]) {
    const at = y(most * part);
    made.append(svg("line", { class: "grid", x1: left, x2: width - 4, y1: at, y2: at }));
    made.append(svg("text", { x: left - 6, y: at + 4, "text-anchor": "end" }, format(most * part)));
  }
  made.append(svg("text", { x: left, y: height - 2 }, clock(begin)));
  made.append(svg("text", { x: width - 4, y: height - 2, "text-anchor": "end" }, clock(now)));
  names.forEach((name, number) => {
    let path = "", isDown = false;
    for (const one of points) {
      const value = one[name];
      if (value === null || value === undefined || one.at < begin) { isDown = false; continue; }
      path += `${isDown ? "L" : "M"}${x(one.at).toFixed(1)} ${y(value).toFixed(1)}`;
      if (!isDown) path += `L${x(one.at).toFixed(1)} ${y(value).toFixed(1)}`;
      isDown = true;
    }
    made.append(svg("path", { class: "ab"[number], d: path }));
  });
  const last = points[points.length - 1];
  const said = names.map((name) => last && last[name] !== null ? format(last[name]) : "–").join(", ");
  made.setAttribute("aria-label", `now ${said}, at most ${format(most)}`);
  box.replaceChildren(made);
}

// Gaps on a line of the last hour.
function drawGaps(box, gaps) {
  const width = Math.max(200, box.clientWidth), height = box.clientHeight || 70;
  const now = Date.now() / 1000, begin = now - HOUR;
  const x = (at) => 4 + (width - 8) * (Math.max(begin, at) - begin) / HOUR;
  const made = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  made.append(svg("line", { class: "grid", x1: 4, x2: width - 4, y1: height - 20, y2: height - 20 }));
  const shown = gaps.filter((one) => Date.parse(one.until) / 1000 >= begin);
  for (const gap of shown) {
    const since = x(Date.parse(gap.since) / 1000), until = x(Date.parse(gap.until) / 1000);
    const mark = svg("rect", { class: "gap", x: since, y: 10, width: Math.max(3, until - since), height: height - 30 });
    mark.append(svg("title", {}, `${gap.since} to ${gap.until}: ${gap.reason}`));
    made.append(mark);
  }
  made.append(svg("text", { x: 4, y: height - 4 }, clock(begin)));
  made.append(svg("text", { x: width - 4, y: height - 4, "text-anchor": "end" }, clock(now)));
  made.setAttribute("aria-label", `${shown.length} gaps in the last hour`);
  box.replaceChildren(made);
}
