// Curves over steps or epochs, with the findings below on the same axis: from where each began to where it ended.
"use strict";
autotrainer.curves = function (id, data) {
  const at = autotrainer, charts = data.charts, ends = charts ? charts.epochs : [];
  const LANE = 22;
  const labels = { loss: "training loss", val_loss: "validation loss", grad_norm: "gradient norm",
    learning_rate: "learning rate", accuracy: "training accuracy", val_accuracy: "validation accuracy" };
  const lasts = charts ? charts.last_step : 0;
  const curves = charts ? charts.curves.map((curve) => ({ ...curve, run: "" })) : [];
  for (const [name, points] of Object.entries(data.returned)) {
    const loss = name.includes("loss");
    curves.push({ name, group: loss ? "loss" : "metrics", unit: "", per: "epoch", points, run: charts ? "returned" : "",
      epochs: true });
  }
  const groups = [...new Set(curves.map((curve) => curve.group))];
  const canEpochs = curves.some((curve) => curve.epochs) || ends.length > 0;
  const canSteps = charts !== null && curves.some((curve) => !curve.epochs);
  const state = { group: groups[0], log: null, axis: data.outcome && canEpochs || !canSteps ? "epoch" : "step" };

  // The number of epochs done at a step, by linear interpolation between the ends that are known.
  function epochOf(step) {
    let before = [0, -1];
    for (const end of ends) {
      if (step <= end[1]) return before[0] + (end[0] - before[0]) * (step - before[1]) / Math.max(1, end[1] - before[1]);
      before = end;
    }
    const pace = before[1] >= 0 ? before[0] / (before[1] + 1) : 0;
    return before[0] + pace * (step - before[1]);
  }

  function place(curve, x) {
    if (curve.epochs) return x + 1;
    return state.axis === "epoch" ? epochOf(x) : x;
  }

  function shown() {
    return curves.filter((curve) => curve.group === state.group && (state.axis === "epoch" || !curve.epochs));
  }

  // The end of the axis, which curves and findings share.
  function furthest() {
    const ends = shown().flatMap((curve) => curve.points.slice(-1).map(([px]) => place(curve, px)));
    const own = charts === null ? 0 : state.axis === "epoch" ? epochOf(lasts) : lasts;
    const far = Math.max(own, ...ends, state.axis === "epoch" ? 0 : 1);
    return state.axis === "epoch" ? Math.ceil(far * 1000) / 1000 : far;
  }

  function finite() {
    return shown().flatMap((curve) => curve.points.map((point) => point[1])).filter((y) => typeof y === "number");
  }

  function isLog() {
    return state.log === null ? at.isWide(finite()) : state.log;
  }

  function named(curve) {
    const name = labels[curve.name] || at.words(curve.name);
    if (curve.run) return `${name} (returned)`;
    return data.outcome && charts ? `${name} (original)` : name;
  }

  function lanes() {
    return charts ? data.lanes : [];
  }

  function span(lane) {
    const end = lane.resolved_step === null ? lasts : lane.resolved_step;
    return [lane.step, Math.max(lane.step, end)].map((step) => state.axis === "epoch" ? epochOf(step) : step);
  }

  function x(value) {
    return state.axis === "step" ? `step ${at.whole(value)}` : `${at.number(value)} epochs`;
  }

  // Findings are drawn as bars, one lane each.
  function bar(params, api) {
    const lane = lanes()[api.value(0)], from = api.coord([api.value(1), api.value(0)]);
    const to = api.coord([api.value(2), api.value(0)]), area = params.coordSys;
    const left = Math.max(area.x, Math.min(from[0], area.x + area.width - 4));
    const width = Math.max(4, Math.min(to[0], area.x + area.width) - left);
    const name = at.shortened(at.words(lane.problem), at.wide.matches ? 48 : 26), room = name.length * 6.6 + 10;
    const outside = width < room, right = outside && left + width + room > area.x + area.width;
    return { type: "group", children: [
      { type: "rect", shape: { x: left, y: from[1] - LANE / 2 + 3, width, height: LANE - 6, r: 3 },
        style: { fill: at.color(lane.severity) } },
      { type: "text", x: outside ? right ? left - 5 : left + width + 5 : left + 6, y: from[1],
        style: { text: name, fill: outside ? at.color("text") : at.color("on-bar"), verticalAlign: "middle",
          align: right ? "right" : "left", fontSize: 12, fontFamily: at.FONT } },
    ] };
  }

  function option() {
    const log = isLog(), list = shown(), many = list.length > 1, bars = lanes(), high = Math.max(...finite());
    const units = [...new Set(list.map((curve) => curve.unit).filter(Boolean))];
    const name = state.group + (units.length === 1 ? ` (${at.shortened(units[0], 40)})` : "");
    const depth = bars.length * LANE, foot = 78, left = at.wide.matches ? 70 : 54;
    const limits = { min: 0, max: furthest() };
    const lost = [];
    const lines = list.map((curve, i) => {
      const points = curve.points.map(([px, y]) => [place(curve, px), y]);
      lost.push(...points.filter(([, y]) => typeof y === "string").map(([px]) => [px, high]));
      return at.curve(i, named(curve), points, log);
    });
    const extra = [];
    if (lost.length) {
      extra.push({ type: "scatter", name: "not finite", data: lost, symbol: "diamond", symbolSize: 11,
        itemStyle: { color: at.color("error") } });
    }
    if (bars.length) {
      extra.push({ type: "custom", name: "findings", xAxisIndex: 1, yAxisIndex: 1, renderItem: bar, clip: false,
        data: bars.map((lane, i) => [i, ...span(lane)]), encode: { x: [1, 2], y: 0 } });
    }
    const roots = bars.filter((lane) => lane.severity === "error" && lane.caused_by === null).slice(0, 3);
    if (lines.length) {
      lines[0].markLine = { symbol: "none", silent: true, label: { show: false }, animation: false,
        lineStyle: { color: at.color("error"), type: "dashed", width: 1 },
        data: roots.map((lane) => ({ xAxis: span(lane)[0] })) };
    }
    const axisName = { name: state.axis === "step" ? "step" : "epochs done", nameLocation: "middle", nameGap: 28 };
    const axis = { type: "value", ...limits, minInterval: state.axis === "step" ? 1 : 0,
      axisLabel: { hideOverlap: true, formatter: state.axis === "step" ? at.whole : at.number } };
    return {
      legend: { type: "scroll", top: 0, left, right: 8, data: [...lines, ...extra].map((s) => s.name)
        .filter((n) => n !== "findings") },
      grid: [{ left, right: 18, top: 54, bottom: depth + foot + (depth ? 26 : 0) }]
        .concat(depth ? [{ left, right: 18, height: depth, bottom: foot }] : []),
      xAxis: depth ? [{ ...axis, gridIndex: 0, axisLabel: { show: false } }, { ...axis, ...axisName, gridIndex: 1 }]
        : [{ ...axis, ...axisName }],
      yAxis: [{ type: log ? "log" : "value", name, nameLocation: "end", scale: true,
        nameTextStyle: { align: "left", padding: [0, 0, 0, 8 - left] },
        axisLabel: { formatter: (v) => at.number(v) } }].concat(depth ? [{ type: "category", gridIndex: 1, inverse: true,
        data: bars.map((_, i) => i), axisLabel: { show: false }, axisTick: { show: false }, splitLine: { show: false },
        name: "findings", nameLocation: "start", nameGap: 8,
        nameTextStyle: { align: "left", padding: [0, 0, 0, 8 - left] } }] : []),
      axisPointer: { link: [{ xAxisIndex: "all" }] },
      dataZoom: at.zoom({ xAxisIndex: depth ? [0, 1] : [0] }),
      tooltip: { trigger: "axis", confine: true, axisPointer: { type: "line" }, formatter: describe },
      series: [...lines, ...extra],
    };

    function describe(items) {
      const rows = [];
      for (const item of items) {
        if (item.seriesType === "custom") continue;
        rows.push([item.seriesName, item.seriesName === "not finite" ? "" : at.number(item.value[1])]);
      }
      const here = items[0].axisValue;
      for (const lane of bars) {
        const [from, to] = span(lane);
        if (from <= here && here <= to) rows.push([at.words(lane.problem), lane.severity]);
      }
      return many || rows.length ? at.tip(x(here), rows) : at.tip(x(here), []);
    }
  }

  function stops() {
    const main = shown()[0];
    if (!main) return [];
    return main.points.map(([px, y], i) => ({
      say: `${x(place(main, px))}: ${named(main)} ${at.number(y)}`,
      show: { type: "showTip", seriesIndex: 0, dataIndex: i },
    }));
  }

  function table() {
    const rows = shown().flatMap((curve) => curve.points.map(([px, y]) => [named(curve), x(place(curve, px)), at.number(y)]));
    return { head: ["curve", state.axis, "value"], rows };
  }

  function label() {
    const names = shown().map(named).join(", ");
    return `${names} over ${state.axis === "step" ? "steps" : "epochs"}, with ${lanes().length} findings on the same axis. ` +
      "The arrow keys go through the values; a table follows.";
  }

  const height = () => (at.wide.matches ? 330 : 290) + lanes().length * LANE + (lanes().length ? 26 : 0);
  const chart = at.mount(id, { option, stops, table, label, height });
  const controls = document.getElementById(id + "-controls");
  const logBox = at.toggle("logarithmic", isLog(), (on) => { state.log = on; chart.draw(); });
  if (groups.length > 1) {
    controls.append(at.select("Show", groups.map((group) => [group, group]), state.group, (group) => {
      state.group = group; state.log = null; chart.draw(); logBox.querySelector("input").checked = isLog();
    }));
  }
  if (canEpochs && canSteps) {
    controls.append(at.select("over", [["step", "steps"], ["epoch", "epochs"]], state.axis, (axis) => {
      state.axis = axis; chart.draw();
    }));
  }
  controls.append(logBox);
  if (data.more_lanes) at.note(id, `${data.more_lanes} more findings are in the list only.`);
  if (charts && charts.more_curves) at.note(id, `${charts.more_curves} more curves were recorded than are drawn.`);
};
