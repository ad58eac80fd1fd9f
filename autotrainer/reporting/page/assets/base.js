// What all charts of a page share: colors of the theme, numbers as text, a chart in its element, its table and keys.
"use strict";
var autotrainer = (function () {
  const wide = matchMedia("(min-width: 40rem)"), dark = matchMedia("(prefers-color-scheme: dark)");
  const mounted = [];
  const TABLE_ROWS = 200, LONGEST_NAME = 60, FONT = "system-ui, sans-serif";

  function color(name) {
    return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  }

  // Curves differ in color and in dash, so that they are told apart without color, too.
  function series() {
    return [1, 2, 3, 4, 5, 6].map((i) => color("series-" + i));
  }

  // Colors and text of all charts; a chart's own options are merged over it.
  function theme() {
    const text = color("text"), line = color("line");
    const axis = {
      axisLine: { lineStyle: { color: color("axis") } }, axisTick: { lineStyle: { color: color("axis") } },
      axisLabel: { color: text }, nameTextStyle: { color: text }, splitLine: { lineStyle: { color: line } },
    };
    return {
      backgroundColor: "transparent", color: series(),
      textStyle: { color: text, fontFamily: FONT },
      categoryAxis: axis, valueAxis: axis, logAxis: axis,
      legend: { textStyle: { color: text }, inactiveColor: color("quiet"), pageTextStyle: { color: text },
        pageIconColor: text, pageIconInactiveColor: line },
      tooltip: { backgroundColor: color("panel"), borderColor: color("axis"), textStyle: { color: text } },
      dataZoom: { borderColor: line, fillerColor: color("filler"), handleStyle: { color: color("axis") },
        textStyle: { color: text }, backgroundColor: "transparent",
        dataBackground: { lineStyle: { color: line }, areaStyle: { color: line } } },
      visualMap: { textStyle: { color: text } },
    };
  }

  // "inf" and null are not finite and not measured.
  function number(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (typeof value === "string") return "not finite";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e5 || size < 1e-3) {
      return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e").replace("-", "−").replace("e-", "e−");
    }
    return String(Number(value.toPrecision(4))).replace("-", "−");
  }

  function whole(value) {
    return Math.round(value).toLocaleString("en-US");
  }

  function shortened(name, longest = LONGEST_NAME) {
    if (name.length <= longest) return name;
    const end = Math.floor(longest / 3);
    return name.slice(0, longest - end - 1) + "…" + name.slice(-end);
  }

  // Paths of layers in few characters: without the parts that all begin with, then with the front parts cut to their
  // first letter, as far as needed. Numbers stay, and so do the ends: that is where layers differ.
  function shortPaths(paths, longest) {
    const split = paths.map((path) => path.split("."));
    const shortest = Math.min(...split.map((parts) => parts.length)) - 1;
    let common = 0;
    while (common < shortest && split.every((parts) => parts[common] === split[0][common])) common++;
    return split.map((all) => {
      const full = all.join(".");
      if (full.length <= longest) return full;
      const parts = all.slice(common), lead = common ? "…" : "";
      for (let i = 0; i < parts.length - 1 && (lead + parts.join(".")).length > longest; i++) {
        if (!/^\d+$/.test(parts[i])) parts[i] = parts[i].slice(0, 1);
      }
      return shortened(lead + parts.join("."), longest);
    });
  }

  function words(name) {
    return name.replaceAll("_", " ");
  }

  // Text always goes in as text: no name can become markup.
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  // The content of a tooltip: a heading, and rows of a name and a value.
  function tip(heading, rows) {
    const box = element("div", { class: "tip" }, element("strong", {}, heading));
    for (const [name, value] of rows) {
      box.append(element("div", {}, element("span", {}, shortened(name)), element("b", {}, value)));
    }
    return box;
  }

  function select(label, choices, value, change) {
    const list = element("select", { onchange: (event) => change(event.target.value) });
    for (const [key, text] of choices) list.append(element("option", { value: key }, text));
    list.value = value;
    return element("label", {}, label + " ", list);
  }

  function toggle(label, value, change) {
    const box = element("input", { type: "checkbox", onchange: (event) => change(event.target.checked) });
    box.checked = value;
    return element("label", {}, box, " " + label);
  }

  // Whether values are shown on a logarithmic axis, unless the user chooses.
  function isWide(values) {
    const low = Math.min(...values);
    return low > 0 && Math.max(...values) / low > 50;
  }

  // One of several curves of (x, value) points; what is not finite or not on the axis leaves a gap.
  function curve(i, name, points, log) {
    const dashes = ["solid", "dashed", "dotted", [8, 3, 2, 3]];
    return { type: "line", name, showSymbol: points.length < 30, symbolSize: 6, connectNulls: false,
      symbol: i % 2 ? "triangle" : "circle", lineStyle: { width: 2, type: dashes[Math.floor(i / 6) + (i % 2)] },
      emphasis: { disabled: true },
      data: points.map(([x, y]) => [x, typeof y === "number" && !(log && y <= 0) ? y : null]) };
  }

  // A slider below the chart, and Ctrl with the mouse wheel.
  function zoom(options) {
    return [
      { type: "slider", bottom: 6, height: 18, showDetail: false, filterMode: "none", brushSelect: false,
        showDataShadow: false, ...options },
      { type: "inside", zoomOnMouseWheel: "ctrl", filterMode: "none", ...options },
    ];
  }

  // Show a chart. `option()` returns its options; it is asked again when the theme or the width changes. `stops()` returns
  // what the arrow keys go through: objects with `say` (what a screen reader says) and `show` (an ECharts action).
  // `table()` returns the data as {head, rows}.
  function mount(id, { option, height, stops, table, label }) {
    const box = document.getElementById(id), below = document.getElementById(id + "-below");
    let chart = null, at = -1;

    function draw() {
      box.style.height = (typeof height === "function" ? height() : height) + "px";
      if (chart === null) chart = echarts.init(box, theme(), { renderer: "canvas" });
      else chart.resize();
      chart.setOption({ animation: false, ...option() }, true);
      if (label) box.setAttribute("aria-label", label());
      at = -1;
    }

    box.addEventListener("keydown", (event) => {
      const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, PageDown: 10, PageUp: -10,
        Home: -Infinity, End: Infinity };
      const all = stops ? stops() : [];
      if (event.key === "Escape") chart.dispatchAction({ type: "hideTip" });
      if (!(event.key in moves) || all.length === 0) return;
      event.preventDefault();
      at = Math.min(all.length - 1, Math.max(0, (at < 0 && moves[event.key] > 0 ? -1 : at) + moves[event.key]));
      if (all[at].show) chart.dispatchAction(all[at].show);
      document.getElementById("announcement").textContent = all[at].say;
    });
    if (table && below) below.append(dataTable(table));
    const shown = { box, draw, resize: () => chart.resize(), recolor: () => { chart.setTheme(theme()); draw(); } };
    mounted.push(shown);
    draw();
    return shown;
  }

  // The data of a chart, for those who can't see it: filled when it is opened.
  function dataTable(table) {
    const holder = element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Data of the chart" });
    const details = element("details", { class: "data" }, element("summary", {}, "Show the data as a table"), holder);
    details.addEventListener("toggle", () => {
      if (!details.open) return;
      const { head, rows } = table();
      const cells = (tag, row, scope) => row.map((cell, i) =>
        i === 0 || tag === "th" ? element("th", { scope }, String(cell)) : element("td", { class: "n" }, String(cell)));
      const body = rows.slice(0, TABLE_ROWS).map((row) => element("tr", {}, ...cells("td", row, "row")));
      holder.replaceChildren(element("table", {}, element("thead", {}, element("tr", {}, ...cells("th", head, "col"))),
        element("tbody", {}, ...body)));
      if (rows.length > TABLE_ROWS) holder.append(element("p", {}, `The first ${TABLE_ROWS} of ${whole(rows.length)} rows.`));
    });
    return details;
  }

  function note(id, text) {
    if (text) document.getElementById(id + "-below").prepend(element("p", { class: "quiet" }, text));
  }

  dark.addEventListener("change", () => mounted.forEach((each) => each.recolor()));
  wide.addEventListener("change", () => mounted.forEach((each) => each.draw()));
  addEventListener("resize", () => mounted.forEach((each) => each.resize()));
  addEventListener("beforeprint", () => mounted.forEach((each) => each.resize()));

  return { FONT, color, curve, dark, dataTable, element, isWide, mount, mounted, note, number, select, series, shortened, shortPaths, tip, toggle,
    whole, wide, words, zoom, data: JSON.parse(document.getElementById("data").textContent) };
})();
