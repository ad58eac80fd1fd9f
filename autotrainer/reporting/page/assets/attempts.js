// The score of each attempt over the work done when it had ended.
"use strict";
autotrainer.attempts = function (id, outcome) {
  const at = autotrainer, better = outcome.mode === "max" ? "higher" : "lower";
  const kinds = { original: ["circle", "error"], full: ["circle", "info"], short: ["circle", "info"], chosen: ["diamond", "good"] };
  const titles = { original: "original", full: "full training", short: "short or with another seed", chosen: "chosen" };
  let work = Math.max(0, outcome.cost - outcome.attempts.reduce((sum, attempt) => sum + attempt.cost, 0));
  const points = [{ x: work, score: outcome.baseline_score, kind: "original", name: "original", plan: [] }];
  for (const attempt of outcome.attempts) {
    work += attempt.cost;
    const kind = attempt.chosen ? "chosen" : attempt.epochs !== null || attempt.verdict ? "short" : "full";
    points.push({ x: work, score: attempt.score, kind, name: attempt.repairs.join(" + ") || "original", plan: attempt.plan });
  }
  const known = points.filter((point) => typeof point.score === "number");
  const box = document.getElementById(id);
  if (known.length < 2) {
    box.remove();
    return;
  }

  function option() {
    return {
      legend: { type: "scroll", top: 0, left: 54, right: 8, data: Object.keys(kinds).filter((kind) => known.some((p) => p.kind === kind)).map((kind) => titles[kind]) },
      grid: { left: at.wide.matches ? 70 : 54, right: 24, top: 58, bottom: 48 },
      xAxis: { type: "value", name: "work, in trainings of the original model", nameLocation: "middle", nameGap: 28, min: 0,
        axisLabel: { formatter: (v) => at.number(v), hideOverlap: true } },
      yAxis: { type: "value", scale: true, boundaryGap: ["8%", "8%"], name: `${outcome.judged_on} ${at.shortened(outcome.metric, 30)} (${better} is better)`,
        nameTextStyle: { align: "left", padding: [0, 0, 0, at.wide.matches ? -58 : -42] },
        axisLabel: { formatter: (v) => at.number(v) } },
      tooltip: { confine: true, formatter: ({ data }) => at.tip(at.shortened(data.point.name), [
        ["score", at.number(data.point.score)], ["work", at.number(data.point.x)],
        ...data.point.plan.slice(0, 6).map((words) => [words.replaceAll("`", ""), ""])]) },
      series: Object.entries(kinds).map(([kind, [symbol, color]]) => ({
        type: "scatter", name: titles[kind], symbol, symbolSize: kind === "chosen" ? 16 : 11,
        itemStyle: { color: at.color(kind === "short" ? "panel" : color), borderColor: at.color(color), borderWidth: 2 },
        label: { show: known.length <= 12 && at.wide.matches, color: at.color("text"),
          formatter: ({ data }) => at.shortened(at.words(data.point.name), 28) },
        labelLayout: { hideOverlap: true, moveOverlap: "shiftY" },
        data: known.filter((point) => point.kind === kind).map((point) => ({ value: [point.x, point.score], point,
          label: { position: point.x > 0.75 * work ? "left" : "right" } })),
        markLine: kind === "original" ? { silent: true, symbol: "none", label: { show: false }, animation: false,
          lineStyle: { color: at.color("axis"), type: "dashed" },
          data: known[0].kind === "original" ? [{ yAxis: known[0].score }] : [] } : undefined,
      })),
    };
  }

  at.mount(id, { option, height: 300,
    stops: () => known.map((point) => ({
      say: `${point.name}: ${at.number(point.score)} after ${at.number(point.x)} trainings`,
      show: { type: "showTip", seriesIndex: Object.keys(kinds).indexOf(point.kind),
        dataIndex: known.filter((other) => other.kind === point.kind).indexOf(point) } })),
    label: () => `Scores of ${known.length} trainings over the work done. The arrow keys go through them; a table follows.` });
};
