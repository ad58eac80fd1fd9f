// The report: draws what it has, copies code, and shows findings by severity.
"use strict";
(function () {
  const at = autotrainer, has = (id) => document.getElementById(id) !== null;

  // Draw the charts of the page; again after its content has been replaced.
  at.show = function (data) {
    if (has("curves")) at.curves("curves", data);
    if (has("layers")) {
      at.layers.heatMap("layers", data);
      at.layers.ends("ends", data);
    }
    if (has("attempts")) at.attempts("attempts", data.outcome);
  };

  async function copy(button) {
    const code = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch { // a page that was opened from a file, in some browsers
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    document.getElementById("announcement").textContent = "Copied to the clipboard";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  }

  function filter(button) {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    for (const finding of document.querySelectorAll(".finding")) {
      if (finding.dataset.severity === button.dataset.severity) finding.hidden = !on;
    }
  }

  // A link to a finding opens it.
  function open(link) {
    const finding = document.querySelector(link.getAttribute("href"));
    finding.open = true;
    finding.hidden = false;
  }

  const actions = { "button.copy": copy, "button.filter": filter, "a.node": open };
  document.addEventListener("click", (event) => {
    for (const [selector, act] of Object.entries(actions)) {
      const target = event.target.closest(selector);
      if (target) act(target);
    }
  });
  addEventListener("beforeprint", () => {
    for (const finding of document.querySelectorAll(".finding")) finding.open = true;
  });

  if (at.data) at.show(at.data);
})();
