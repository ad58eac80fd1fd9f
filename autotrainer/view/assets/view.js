// Follows runs: asks for the list again and again, and shows the report of one run and the curves of several.
"use strict";
(function () {
  const at = autotrainer, EVERY = 1500, READING = 100, IN_USE = 10000; // milliseconds
  const by = (id) => document.getElementById(id);
  const loaded = new Map(); // by run: its version and what the server says of it
  const compared = new Set();
  let list = { runs: [], paths: [], left_out: 0 }, selected = null, chosen = false, shownVersion = "", shownAt = 0;
  let comparedVersions = "";

  async function get(path) {
    const answer = await fetch(path, { cache: "no-store" });
    if (!answer.ok) throw new Error(`the answer was ${answer.status}`);
    return answer.json();
  }

  async function details(run) {
    const known = loaded.get(run.id);
    if (known && known.version === run.version) return known;
    const fresh = await get(`runs/${run.id}`);
    loaded.set(run.id, fresh);
    return fresh;
  }

  function state(run) {
    return at.element("td", { class: `state ${run.state}` }, run.state_text);
  }

  function counts(run) {
    const badges = Object.entries(run.findings).filter(([severity, count]) => count && severity !== "info")
      .flatMap(([severity, count]) => [
        at.element("span", { class: `badge ${severity}` }, `${count} ${severity}${count > 1 ? "s" : ""}`), " ",
      ]);
    return at.element("td", {}, at.element("div", {}, ...(badges.length ? badges : ["–"])));
  }

  function row(run) {
    const box = at.element("input", { type: "checkbox", "aria-label": `compare ${run.name}`,
      onchange: (event) => {
        compared[event.target.checked ? "add" : "delete"](run.id);
        refreshComparison().catch(complain);
      } });
    box.checked = compared.has(run.id);
    const choose = at.element("button", { type: "button", "aria-current": String(run.id === selected), onclick: () => {
      [selected, chosen] = [run.id, true];
      renderList();
      refreshDetails(true).catch(complain);
    } }, run.name);
    const values = Object.entries(run.values).map(([name, value]) =>
      at.element("div", { class: "value" }, `${at.words(name)} ${at.number(value)}`));
    const cells = [at.element("td", {}, box),
      at.element("td", {}, at.element("div", {}, choose,
        at.element("div", { class: "quiet" }, `${run.optimizer}, rate ${at.number(run.learning_rate)}`))),
      state(run),
      at.element("td", { class: "n" }, run.step < 0 ? "–" : at.whole(run.step)),
      at.element("td", { class: "n" }, run.epochs ? `${run.epoch}/${run.epochs}` : String(run.epoch)),
      at.element("td", { class: "n" }, at.number(run.loss)), at.element("td", {}, at.element("div", {}, ...(values.length ? values : ["–"]))), counts(run)];
    cells.forEach((cell, i) => cell.setAttribute("data-column", by("view-runs").tHead.rows[0].cells[i].textContent));
    return at.element("tr", { class: run.id === selected ? "selected" : "", "data-run": run.id }, ...cells);
  }

  // Rows are replaced in place, so that the focus stays where it is.
  function renderList() {
    const body = by("view-runs").tBodies[0], focused = document.activeElement;
    const where = focused && body.contains(focused) ? [focused.closest("tr").dataset.run, focused.tagName] : null;
    body.replaceChildren(...list.runs.map(row));
    if (where) {
      const again = [...body.rows].find((each) => each.dataset.run === where[0]);
      if (again) again.querySelector(where[1].toLowerCase()).focus();
    }
    by("view-list").hidden = list.runs.length === 0;
    by("view-empty").hidden = list.runs.length > 0;
    by("view-empty-text").textContent = `No run log in ${list.paths.join(", ")} yet: waiting for one that watch(log_dir=…) writes.`;
    by("view-left-out").hidden = !list.left_out;
    by("view-left-out").textContent = `${list.left_out} older logs are not followed.`;
  }

  // What the user has opened, chosen and zoomed in the report, to be restored in its next version.
  function kept(main) {
    const charts = at.mounted.filter((each) => main.contains(each.box));
    return {
      open: new Map([...main.querySelectorAll("details")].map((each) => [place(each), each.open])),
      off: [...main.querySelectorAll('button.filter[aria-pressed="false"]')].map((each) => each.dataset.severity),
      controls: new Map([...main.querySelectorAll(".controls select, .controls input")].map((each, i) => [control(each), each])),
      zoom: charts.map((each) => [each.box.id, (echarts.getInstanceByDom(each.box).getOption().dataZoom || [])[0]]),
      focus: document.activeElement && main.contains(document.activeElement) ? control(document.activeElement) : null,
    };
  }

  function place(details) {
    const holder = details.closest("[id$='-below']");
    return (holder ? holder.id : "") + details.querySelector("summary").textContent;
  }

  function control(element) {
    const holder = element.closest(".controls");
    return holder ? `${holder.id} ${[...holder.querySelectorAll("select, input, button")].indexOf(element)}` : element.id;
  }

  function restore(main, before) {
    for (const each of main.querySelectorAll("details")) {
      if (before.open.has(place(each))) each.open = before.open.get(place(each));
    }
    for (const each of main.querySelectorAll("button.filter")) if (before.off.includes(each.dataset.severity)) each.click();
    for (const each of main.querySelectorAll(".controls select, .controls input")) {
      const old = before.controls.get(control(each));
      if (!old || old.tagName !== each.tagName || (old.value === each.value && old.checked === each.checked)) continue;
      if (each.tagName === "SELECT" && ![...each.options].some((choice) => choice.value === old.value)) continue;
      [each.value, each.checked] = [old.value, old.checked];
      each.dispatchEvent(new Event("change"));
    }
    for (const [id, zoom] of before.zoom) {
      const shown = at.mounted.find((each) => each.box.id === id && main.contains(each.box));
      if (shown && zoom && (zoom.start > 0 || zoom.end < 100)) {
        echarts.getInstanceByDom(shown.box).dispatchAction({ type: "dataZoom", start: zoom.start, end: zoom.end });
      }
    }
    if (before.focus) {
      const again = [...main.querySelectorAll("select, input, button, [id]")].find((each) => control(each) === before.focus);
      if (again) again.focus({ preventScroll: true });
    }
  }

  // The report of a run is that of `autotrainer report`, as the server writes it, with every name escaped.
  function renderDetails(run, same) {
    const main = by("details"), before = same ? kept(main) : null;
    const parsed = new DOMParser().parseFromString(run.html, "text/html");
    const height = main.offsetHeight;
    if (same) main.style.minHeight = `${height}px`; // keeps the scroll position
    const hint = run.state_hint ? [at.element("p", { class: "panel hint" }, run.state_hint)] : [];
    main.replaceChildren(...hint, ...parsed.body.childNodes);
    for (let i = at.mounted.length - 1; i >= 0; i--) {
      if (at.mounted[i].box.isConnected) continue;
      echarts.getInstanceByDom(at.mounted[i].box).dispose();
      at.mounted.splice(i, 1);
    }
    at.show(run.data);
    if (same) restore(main, before);
    main.style.minHeight = "";
    document.title = `${run.name}: autotrainer view`;
  }

  async function refreshDetails(now) {
    const run = list.runs.find((each) => each.id === selected);
    if (!run) return;
    const version = `${run.id} ${run.version}`, same = shownVersion.startsWith(`${run.id} `);
    const inUse = document.activeElement && document.activeElement.tagName === "SELECT"; // its list may be open
    if (version === shownVersion || (!now && inUse && Date.now() - shownAt < IN_USE)) return;
    const fresh = await details(run);
    if (run.id !== selected) return; // another one was chosen meanwhile
    [shownVersion, shownAt] = [version, Date.now()];
    renderDetails(fresh, same);
  }

  async function differences(ids) {
    const box = by("view-differences");
    box.replaceChildren(at.element("p", { role: "status" }, "comparing"));
    const parts = [];
    for (const other of ids.slice(1)) {
      try {
        const { title, text } = await get(`compare/${ids[0]}/${other}`);
        parts.push(at.element("h3", {}, title), at.element("pre", { tabindex: "0", role: "region", "aria-label": title }, text));
      } catch {
        parts.push(at.element("p", {}, "These runs can't be compared: one has no measurements yet, or is gone."));
      }
    }
    box.replaceChildren(...parts);
  }

  const compare = at.compare("view-compare", differences);

  async function refreshComparison() {
    const runs = list.runs.filter((run) => compared.has(run.id)).sort((a, b) => a.id - b.id);
    const versions = runs.map((run) => `${run.id} ${run.version}`).join();
    by("view-comparison").hidden = runs.length < 2;
    if (runs.length < 2 || versions === comparedVersions) {
      if (runs.length < 2) { by("view-differences").replaceChildren(); comparedVersions = ""; }
      return;
    }
    const all = await Promise.all(runs.map(details));
    comparedVersions = versions;
    compare(all.map((run, i) => ({ id: runs[i].id, label: run.name, curves: run.data.charts ? run.data.charts.curves : [] })));
  }

  // A run may be gone, or the server: the next look shows it.
  function complain(error) {
    by("view-status").textContent = `could not show the latest: ${error.message}`;
  }

  async function refresh() {
    if (document.hidden || !by("view-follow").checked) return;
    try {
      list = await get("runs");
      by("view-status").textContent = `following ${list.paths.join(", ")}`;
    } catch {
      by("view-status").textContent = "not connected: `autotrainer view` has ended";
      return;
    }
    for (const id of [...compared]) if (!list.runs.some((run) => run.id === id)) compared.delete(id);
    if (!chosen || !list.runs.some((run) => run.id === selected)) selected = list.runs.length ? list.runs[0].id : null;
    renderList();
    try {
      await refreshDetails(false);
      await refreshComparison();
    } catch (error) {
      complain(error);
    }
  }

  async function loop() {
    await refresh();
    setTimeout(loop, list.runs.some((run) => run.state === "reading") ? READING : EVERY);
  }

  document.addEventListener("visibilitychange", refresh);
  loop();
})();
