// Curves of several runs in one chart, and what differs between two of them.
"use strict";
autotrainer.compare = function (id, differences) {
  const at = autotrainer;
  const state = { curve: "loss", log: null };
  let runs = [], chart = null, zoom = null;

  function names() {
    return [...new Set(runs.flatMap((run) => run.curves.map((curve) => curve.name)))];
  }

  function shown() {
    return runs.map((run) => ({ run, curve: run.curves.find((each) => each.name === state.curve) }))
      .filter((each) => each.curve);
  }

  function finite() {
    return shown().flatMap(({ curve }) => curve.points.map((point) => point[1])).filter((y) => typeof y === "number");
  }

  function isLog() {
    return state.log === null ? at.isWide(finite()) : state.log;
  }

  function option() {
    const log = isLog(), left = at.wide.matches ? 70 : 54;
    const series = shown().map(({ run, curve }, i) => at.curve(i, run.label, curve.points, log));
    return {
      legend: { type: "scroll", top: 0, left, right: 8, formatter: (name) => at.shortened(name, 32) },
      grid: { left, right: 18, top: 54, bottom: 78 },
      xAxis: { type: "value", name: "step", nameLocation: "middle", nameGap: 28, min: 0,
        minInterval: 1, axisLabel: { hideOverlap: true, formatter: at.whole } },
      yAxis: { type: log ? "log" : "value", name: at.words(state.curve), nameLocation: "end", scale: true,
        nameTextStyle: { align: "left", padding: [0, 0, 0, 8 - left] }, axisLabel: { formatter: (v) => at.number(v) } },
      dataZoom: at.zoom(zoom),
      tooltip: { trigger: "axis", confine: true, formatter: (items) => at.tip(`step ${at.whole(items[0].axisValue)}`,
        items.map((item) => [item.seriesName, at.number(item.value[1])])) },
      series,
    };
  }

  function stops() {
    const first = shown()[0];
    if (!first) return [];
    return first.curve.points.map(([x, y], i) => ({
      say: `step ${at.whole(x)}: ${first.run.label} ${at.number(y)}`,
      show: { type: "showTip", seriesIndex: 0, dataIndex: i },
    }));
  }

  function table() {
    const rows = shown().flatMap(({ run, curve }) => curve.points.map(([x, y]) => [run.label, at.whole(x), at.number(y)]));
    return { head: ["run", "step", at.words(state.curve)], rows };
  }

  // Runs without a finite value have no curve.
  function missing() {
    const without = runs.filter((run) => !shown().some((each) => each.run === run)).map((run) => run.label);
    document.getElementById(id + "-missing").textContent = without.length
      ? `Not drawn, without any finite ${at.words(state.curve)}: ${without.join(", ")}.` : "";
  }

  function controls() {
    const box = document.getElementById(id + "-controls");
    if (box.contains(document.activeElement) && box.dataset.names === names().join()) return;
    box.dataset.names = names().join();
    box.replaceChildren(
      at.select("Show", names().map((name) => [name, at.words(name)]), state.curve, (name) => {
        state.curve = name; state.log = null; draw();
      }),
      at.toggle("logarithmic", isLog(), (on) => { state.log = on; draw(); }),
      at.element("button", { type: "button", onclick: () => differences(runs.map((run) => run.id)) },
        "Compare with the first in detail"),
    );
  }

  function draw() {
    if (chart === null) {
      const label = () => `${at.words(state.curve)} of ${shown().map(({ run }) => run.label).join(", ")} over steps. ` +
        "The arrow keys go through the values; a table follows.";
      chart = at.mount(id, { option, stops, table, label, height: () => at.wide.matches ? 330 : 290 });
    } else {
      const [slider] = echarts.getInstanceByDom(chart.box).getOption().dataZoom;
      zoom = { start: slider.start, end: slider.end };
      chart.draw();
    }
    controls();
    missing();
  }

  // Show runs: objects with `id`, `label` and `curves`.
  return function (compared) {
    runs = compared;
    if (!names().includes(state.curve)) state.curve = names()[0] || "loss";
    draw();
  };
};
