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

  function nameWidth() {
    return at.wide.matches ? 190 : 92;
  }

  function nameAxis(layers) {
    const labels = at.shortPaths(layers, Math.floor(nameWidth() / 6.6));
    return { type: "category", inverse: true, data: layers.map((_, i) => i), splitLine: { show: false },
      axisTick: { show: false },
      axisLabel: { formatter: (i) => labels[i], interval: layers.length > 30 ? "auto" : 0,
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
    const table = data.charts.layers, statistics = Object.keys(table.over_steps);
    const state = {};
    const isLog = () => !SHARES.includes(state.statistic);
    const scaled = (value) => isLog() ? Math.log10(value) : value;
    const back = (value) => isLog() ? 10 ** value : value;
    const steps = (column) => {
      const [first, last] = table.steps[column];
      return first === last ? `step ${at.whole(first)}` : `steps ${at.whole(first)} to ${at.whole(last)}`;
    };

    // The layers of which a statistic is known: not all have weights, or units that can die.
    function show(statistic) {
      const all = table.over_steps[statistic], kept = all.map((_, y) => y).filter((y) => all[y].some((v) => v !== null));
      Object.assign(state, { statistic, layers: kept.map((y) => table.names[y]), rows: kept.map((y) => all[y]) });
    }

    function option() {
      const cells = [], plain = [], layers = state.layers; // plain ones are not on the scale
      state.rows.forEach((row, y) => row.forEach((value, x) => {
        if (value === LOST || (isLog() && value === 0)) {
          plain.push({ value: [x, y, 0, value], itemStyle: { color: at.color(value === LOST ? "error" : "axis") } });
        } else if (value !== null) cells.push([x, y, scaled(value), value]);
      }));
      const values = cells.map((cell) => cell[2]);
      let [low, high] = isLog() && values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
      if (high - low < 1e-9) [low, high] = [low - 0.5, high + 0.5];
      return {
        grid: { left: nameWidth() + 14, right: 18, top: 62, bottom: 48 },
        xAxis: { type: "category", data: table.steps.map((span) => span[0]), name: "sampled step", nameLocation: "middle",
          nameGap: 30, splitLine: { show: false }, axisLabel: { formatter: (v) => at.whole(v), hideOverlap: true } },
        yAxis: { ...nameAxis(layers), name: "layer", nameLocation: "start",
          nameTextStyle: { align: "right", padding: [0, 8, 0, 0] } },
        visualMap: { type: "continuous", min: low, max: high, orient: "horizontal", top: 0, right: 12, itemWidth: 14,
          itemHeight: at.wide.matches ? 220 : 120, seriesIndex: 0, dimension: 2, text: [at.number(back(high)), at.number(back(low))],
          inRange: { color: [1, 2, 3, 4, 5, 6].map((i) => at.color("heat-" + i)) } },
        tooltip: { confine: true, formatter: ({ value }) => at.tip(at.shortened(layers[value[1]]), [
          [steps(value[0]), at.number(value[3])]]) },
        series: [
          { type: "heatmap", data: cells, progressive: 0, emphasis: { disabled: true },
            itemStyle: { borderWidth: layers.length > 24 ? 0 : 0.5, borderColor: at.color("panel") } },
          { type: "heatmap", data: plain, emphasis: { disabled: true } },
        ],
      };
    }

    function stops() {
      let before = 0;
      return state.layers.map((layer, y) => {
        const known = state.rows[y].filter((value) => value !== null);
        before += known.filter((value) => value !== LOST && !(isLog() && value === 0)).length;
        return { say: `${layer}: ${names[state.statistic]} ${at.number(known[0])} at first, ${at.number(known[known.length - 1])} at last`,
          show: before ? { type: "showTip", seriesIndex: 0, dataIndex: before - 1 } : null };
      });
    }

    show(statistics[0]);
    const chart = at.mount(id, {
      option, stops,
      height: () => 110 + Math.max(60, state.layers.length * (state.layers.length > 24 ? 14 : 22)),
      table: () => ({ head: ["layer", ...table.steps.map((_, i) => steps(i))],
        rows: state.layers.map((layer, y) => [layer, ...state.rows[y].map(at.number)]) }),
      label: () => `Heat map of the ${names[state.statistic]} of ${state.layers.length} layers over ${table.steps.length} ` +
        "columns of sampled steps. The arrow keys go through the layers; a table follows.",
    });
    const unit = at.element("span", { class: "quiet" }, units[state.statistic]);
    document.getElementById(id + "-controls").append(
      at.select("Show", statistics.map((name) => [name, names[name]]), state.statistic, (name) => {
        show(name); unit.textContent = units[name]; chart.draw();
      }), unit);
    notes(id, data.charts);
    at.note(id, "Each cell is the highest value in its steps. Empty cells were not measured; on scales of norms and ratios, gray " +
      "ones are exactly 0; red ones are not finite.");
  }

  function ends(id, data) {
    const table = data.charts.layers, statistics = Object.keys(table.first_and_last);
    const state = {};

    function show(statistic) {
      const all = table.first_and_last[statistic], kept = all.map((_, y) => y).filter((y) => all[y].some((v) => v !== null));
      Object.assign(state, { statistic, layers: kept.map((y) => table.names[y]), pairs: kept.map((y) => all[y]) });
    }

    function option() {
      const { pairs, layers } = state;
      const values = pairs.flat().filter((value) => typeof value === "number");
      const log = !SHARES.includes(state.statistic) && values.every((v) => v > 0) && Math.max(...values) / Math.min(...values) > 20;
      const points = (side) => pairs.map((pair, y) => [typeof pair[side] === "number" ? pair[side] : null, y]);
      const lost = pairs.flatMap((pair, y) => pair.includes(LOST) ? [[Math.max(...values, 1e-9), y]] : []);
      return {
        legend: { type: "scroll", top: 0, left: at.wide.matches ? nameWidth() + 14 : 0, data: ["first sample", "last sample", ...(lost.length ? ["not finite"] : [])] },
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
          { type: "scatter", name: "first sample", data: points(0), symbol: "circle", symbolSize: 9,
            itemStyle: { color: at.color("panel"), borderColor: at.series()[0], borderWidth: 2 } },
          { type: "scatter", name: "last sample", data: points(1), symbol: "circle", symbolSize: 9,
            itemStyle: { color: at.series()[1] } },
          { type: "scatter", name: "not finite", data: lost, symbol: "diamond", symbolSize: 11,
            itemStyle: { color: at.color("error") } },
        ],
      };
    }

    const pairOf = (y) => state.pairs[y].map(at.number);
    show(statistics[0]);
    const chart = at.mount(id, {
      option,
      height: () => 90 + Math.max(60, state.layers.length * (state.layers.length > 24 ? 14 : 20)),
      stops: () => state.layers.map((layer, y) => ({ say: `${layer}: ${pairOf(y)[0]} at first, ${pairOf(y)[1]} at last`,
        show: { type: "showTip", seriesIndex: 2, dataIndex: y } })),
      table: () => ({ head: ["layer", "first sample", "last sample"], rows: state.layers.map((layer, y) => [layer, ...pairOf(y)]) }),
      label: () => `${names[state.statistic]} of each layer at the first and the last sample. The arrow keys go through ` +
        "the layers; a table follows.",
    });
    document.getElementById(id + "-controls").append(at.select("Show", statistics.map((name) => [name, names[name]]),
      state.statistic, (name) => { show(name); chart.draw(); }));
    at.note(id, "Whole distributions are not kept: these are their statistics.");
  }

  return { heatMap, ends };
})();
