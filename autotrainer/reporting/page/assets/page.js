// The report: draws what it has, copies code, and shows findings by severity.
"use strict";
(function () {
  const at = autotrainer, data = at.data, has = (id) => document.getElementById(id) !== null;
  if (has("curves")) at.curves("curves", data);
  if (has("layers")) {
    at.layers.heatMap("layers", data);
    at.layers.ends("ends", data);
  }
  if (has("attempts")) at.attempts("attempts", data.outcome);

  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
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
    });
  }

  for (const button of document.querySelectorAll("button.filter")) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      for (const finding of document.querySelectorAll(".finding")) {
        if (finding.dataset.severity === button.dataset.severity) finding.hidden = !on;
      }
    });
  }

  // A link to a finding opens it.
  for (const link of document.querySelectorAll("a.node")) {
    link.addEventListener("click", () => {
      const finding = document.querySelector(link.getAttribute("href"));
      finding.open = true;
      finding.hidden = false;
    });
  }
  addEventListener("beforeprint", () => {
    for (const finding of document.querySelectorAll(".finding")) finding.open = true;
  });
})();
