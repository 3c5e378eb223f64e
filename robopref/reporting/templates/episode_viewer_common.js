"use strict";
// What the list and the page of an episode share. Text from recordings is only ever set as text.

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Black or white, whichever stands out on a colour (WCAG's relative luminance).
function isDark(color) {
  const [r, g, b] = [1, 3, 5].map((i) => {
    const c = parseInt(color.slice(i, i + 2), 16) / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  const luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b;
  return 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05;
}

const HATCHES = { operator: "hatched", human: "hatched", undesirable: "crossed", hold: "dotted", excluded: "dotted" };

function segment(look) {
  const element = make("span", { class: `segment ${HATCHES[look.name] || ""} ${isDark(look.color) ? "dark" : ""}` });
  element.style.setProperty("--color", look.color);
  return element;
}

// Runs [value, count] as coloured stretches; their names are added by nameSegments, once the width is known.
function fillBand(band, runs, looks) {
  const total = runs.reduce((sum, run) => sum + run[1], 0);
  let start = 0;
  band.replaceChildren(...runs.map(([value, count]) => {
    const element = segment(looks[value]);
    element.style.left = `${(100 * start) / total}%`;
    element.style.width = `${(100 * count) / total}%`;
    element.dataset.name = looks[value].name;
    start += count;
    return element;
  }));
}

function nameSegments(band) {
  // All widths are read before any name is written: each write would have the browser lay the band out anew.
  const widths = Array.from(band.children, (element) => element.clientWidth);
  widths.forEach((width, i) => {
    const { name } = band.children[i].dataset;
    const text = width > 8 * name.length + 8 ? name : "";
    if (band.children[i].textContent !== text) band.children[i].textContent = text;
  });
}

function legend(list, looks, present) {
  list.replaceChildren(...Object.entries(looks).filter(([value]) => present.has(Number(value)))
    .map(([, look]) => make("li", {}, segment(look), look.name)));
}

function fact(name, value, wide = false) {
  return make("div", wide ? { class: "wide" } : {}, make("dt", {}, name), make("dd", {}, value));
}

function when(started) {
  return started ? started.slice(0, 19).replace("T", " ") : "";
}

function link(row) {
  return `episode.html#${encodeURIComponent(row.id)}`;
}
