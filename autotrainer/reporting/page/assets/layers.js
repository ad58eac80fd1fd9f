// Statistics of the layers: a heat map of layers by steps, and each layer's first and last value.
"use strict";
autotrainer.layers = (function () {
  const at = autotrainer;
  const names = { grad_norm: "gradient norm", update_ratio: "update ratio", dead_units: "dead units",
    saturated: "saturated units", weight_norm: "weight norm", activation_mean_abs: "output: mean of absolute values",
    activation_std: "output: standard deviation", activation_max_abs: "output: largest absolute value",
    activation_spread: "output: spread across inputs" };
  const units = { grad_norm: "L2 norm", update_ratio: "change of the weights in one step ÷ their norm",
    dead_units: "share of units that are 0 for all inputs", saturated: "share of outputs where the activation is flat",
    weight_norm: "L2 norm" };
  const SHARES = ["dead_units", "saturated"], LOST = "inf";
  const SMALLEST = 1e-12; // what is closer to 0 counts as 0 on a logarithmic scale

  function nameWidth() {
    return at.wide.matches ? 150 : 84;
  }

  // Names are cut by their middle, as layers of one block differ at the end.
  function nameAxis(layers) {
    const longest = Math.floor(nameWidth() / 6.6);
    return { type: "category", inverse: true, data: layers.map((_, i) => i), splitLine: { show: false },
      axisTick: { show: false },
      axisLabel: { formatter: (i) => at.shortened(layers[i], longest), interval: layers.length > 30 ? "auto" : 0,
        fontSize: 12 } };
  }

  function notes(id, charts) {
    const left = charts.layers.more_layers;
    if (left) {
      at.note(id, `${at.whole(charts.layers.names.length)} of ${at.whole(charts.layers.names.length + left)} layers: ` +
        "those that findings name, the first, the last, and those that differ most from the others.");
    }
  }

  function heatMap(id, data) {
    const table = data.charts.layers, layers = table.names, statistics = Object.keys(table.over_steps);
    const state = { statistic: statistics[0] };
    const isLog = () => !SHARES.includes(state.statistic);
    const scaled = (value) => isLog() ? Math.log10(Math.max(value, SMALLEST)) : value;
    const back = (value) => isLog() ? 10 ** value : value;
    const steps = (column) => {
      const [first, last] = table.steps[column];
      return first === last ? `step ${at.whole(first)}` : `steps ${at.whole(first)} to ${at.whole(last)}`;
    };

    function option() {
      const cells = [], lost = [], rows = table.over_steps[state.statistic];
      rows.forEach((row, y) => row.forEach((value, x) => {
        if (value === LOST) lost.push([x, y, 0]);
        else if (value !== null) cells.push([x, y, scaled(value), value]);
      }));
      const values = cells.map((cell) => cell[2]);
      let low = Math.min(...values), high = Math.max(...values);
      if (!isLog()) [low, high] = [0, 1];
      if (!values.length) [low, high] = [0, 1];
      if (high - low < 1e-9) [low, high] = [low - 0.5, high + 0.5];
      const colors = [1, 2, 3, 4, 5, 6].map((i) => at.color("heat-" + i));
      return {
        grid: { left: nameWidth() + 14, right: 18, top: 58, bottom: 48 },
        xAxis: { type: "category", data: table.steps.map((span) => span[0]), name: "sampled step", nameLocation: "middle",
          nameGap: 30, splitLine: { show: false }, axisLabel: { formatter: (v) => at.whole(v), hideOverlap: true } },
        yAxis: { ...nameAxis(layers), name: "layer, input first", nameLocation: "start",
          nameTextStyle: { align: "left", padding: [0, 0, 0, -nameWidth()] } },
        visualMap: { type: "continuous", min: low, max: high, calculable: at.wide.matches, orient: "horizontal", top: 0,
          right: 12, itemWidth: 12, itemHeight: at.wide.matches ? 200 : 120, seriesIndex: 0, dimension: 2,
          inRange: { color: colors }, text: [at.number(back(high)), at.number(back(low))],
          formatter: (v) => at.number(back(v)) },
        tooltip: { confine: true, formatter: ({ value, seriesIndex }) => at.tip(at.shortened(layers[value[1]]), [
          [steps(value[0]), seriesIndex ? "not finite" : at.number(value[3])]]) },
        series: [
          { type: "heatmap", data: cells, progressive: 0, emphasis: { disabled: true },
            itemStyle: { borderWidth: layers.length > 30 ? 0 : 0.5, borderColor: at.color("panel") } },
          { type: "heatmap", data: lost.map((value) => ({ value, itemStyle: { color: at.color("error") } })),
            emphasis: { disabled: true } },
        ],
      };
    }

    function stops() {
      const rows = table.over_steps[state.statistic], last = table.steps.length - 1;
      return layers.map((layer, y) => {
        const known = rows[y].filter((value) => value !== null);
        const ends = known.length ? `${at.number(known[0])} at first, ${at.number(known[known.length - 1])} at last` : "not measured";
        const index = rows.slice(0, y + 1).flat().filter((value) => value !== null && value !== LOST).length - 1;
        const show = rows[y][last] === null || rows[y][last] === LOST ? null
          : { type: "showTip", seriesIndex: 0, dataIndex: index };
        return { say: `${layer}: ${names[state.statistic]} ${ends}`, show };
      });
    }

    const chart = at.mount(id, {
      option, stops,
      height: () => 106 + Math.max(90, layers.length * (layers.length > 24 ? 13 : 20)),
      table: () => ({ head: ["layer", ...table.steps.map((_, i) => steps(i))],
        rows: layers.map((layer, y) => [layer, ...table.over_steps[state.statistic][y].map(at.number)]) }),
      label: () => `Heat map of the ${names[state.statistic]} of ${layers.length} layers over ${table.steps.length} columns ` +
        "of sampled steps. The arrow keys go through the layers; a table follows.",
    });
    const unit = at.element("span", { class: "quiet" });
    const show = (statistic) => { state.statistic = statistic; unit.textContent = units[statistic] || ""; };
    show(state.statistic);
    document.getElementById(id + "-controls").append(
      at.select("Show", statistics.map((name) => [name, names[name]]), state.statistic, (name) => { show(name); chart.draw(); }),
      unit);
    notes(id, data.charts);
    at.note(id, "Each cell is the highest value in its steps. Cells without a color were not measured.");
  }

  function ends(id, data) {
    const table = data.charts.layers, layers = table.names, statistics = Object.keys(table.first_and_last);
    const state = { statistic: statistics[0] };

    function option() {
      const pairs = table.first_and_last[state.statistic];
      const values = pairs.flat().filter((value) => typeof value === "number");
      const log = !SHARES.includes(state.statistic) && values.every((v) => v > 0) && Math.max(...values) / Math.min(...values) > 20;
      const points = (side) => pairs.map((pair, y) => [typeof pair[side] === "number" ? pair[side] : null, y]);
      const lost = pairs.flatMap((pair, y) => pair.includes(LOST) ? [[Math.max(...values, 1e-9), y]] : []);
      return {
        legend: { top: 0, left: nameWidth() + 14, data: ["first sample", "last sample", ...(lost.length ? ["not finite"] : [])] },
        grid: { left: nameWidth() + 14, right: 24, top: 34, bottom: 48 },
        xAxis: { type: log ? "log" : "value", name: units[state.statistic] || names[state.statistic], nameLocation: "middle",
          nameGap: 30, scale: !SHARES.includes(state.statistic), axisLabel: { formatter: (v) => at.number(v), hideOverlap: true } },
        yAxis: nameAxis(layers),
        tooltip: { confine: true, formatter: ({ dataIndex, seriesName, value }) => {
          const y = seriesName === "not finite" ? value[1] : dataIndex;
          return at.tip(at.shortened(layers[y]), [["first sample", at.number(pairs[y][0])], ["last sample", at.number(pairs[y][1])]]);
        } },
        series: [
          { type: "custom", silent: true, data: pairs.map((_, y) => [y]), encode: { y: 0 }, tooltip: { show: false },
            renderItem: (params, api) => {
              const [a, b] = pairs[api.value(0)];
              if (typeof a !== "number" || typeof b !== "number") return null;
              const from = api.coord([a, api.value(0)]), to = api.coord([b, api.value(0)]);
              return { type: "line", shape: { x1: from[0], y1: from[1], x2: to[0], y2: to[1] },
                style: { stroke: at.color("axis"), lineWidth: 2 } };
            } },
          { type: "scatter", name: "first sample", data: points(0), symbol: "emptyCircle", symbolSize: 9,
            itemStyle: { color: at.series()[0], borderWidth: 2 } },
          { type: "scatter", name: "last sample", data: points(1), symbol: "circle", symbolSize: 9,
            itemStyle: { color: at.series()[1] } },
          { type: "scatter", name: "not finite", data: lost, symbol: "diamond", symbolSize: 11,
            itemStyle: { color: at.color("error") } },
        ],
      };
    }

    const pairOf = (y) => table.first_and_last[state.statistic][y].map(at.number);
    const chart = at.mount(id, {
      option,
      height: () => 90 + Math.max(90, layers.length * (layers.length > 24 ? 14 : 20)),
      stops: () => layers.map((layer, y) => ({ say: `${layer}: ${pairOf(y)[0]} at first, ${pairOf(y)[1]} at last`,
        show: { type: "showTip", seriesIndex: 2, dataIndex: y } })),
      table: () => ({ head: ["layer", "first sample", "last sample"], rows: layers.map((layer, y) => [layer, ...pairOf(y)]) }),
      label: () => `${names[state.statistic]} of each layer at the first and the last sample. The arrow keys go through ` +
        "the layers; a table follows.",
    });
    document.getElementById(id + "-controls").append(at.select("Show", statistics.map((name) => [name, names[name]]),
      state.statistic, (name) => { state.statistic = name; chart.draw(); }));
    at.note(id, "Whole distributions are not kept: these are their statistics.");
  }

  return { heatMap, ends };
})();
