"use strict";
(() => {
  const root = document.documentElement;
  const given = JSON.parse(document.getElementById("figures").textContent);
  const texts = given.figures.map((one) => JSON.stringify(one));
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;

  const remembered = () => { try { return localStorage.getItem("pkdray-theme"); } catch { return null; } };
  const remember = (theme) => { try { localStorage.setItem("pkdray-theme", theme); } catch { /* a private window */ } };

  // Figures are stored for light; each colour of the palette has its dark twin.
  const inTheme = (text) => JSON.parse(
    root.dataset.theme === "dark" ? text.replace(/#[0-9a-f]{6}\b/g, (hex) => given.dark[hex] || hex) : text);

  const draw = (text) => {
    const figure = inTheme(text);
    const place = document.getElementById(figure.id);
    const layout = { ...figure.layout, height: place.clientHeight };
    // A finger on a figure is to scroll the page, not to zoom.
    if (touch) layout.dragmode = false;
    if (place.clientWidth < 480) layout.template.layout.font.size = 11;
    return Plotly.react(place, figure.data, layout, {
      // Named one by one: plotly's own choice has a button that would send the figure away.
      responsive: true, displaylogo: false, displayModeBar: touch ? false : "hover",
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    });
  };

  const drawAll = async () => {
    delete root.dataset.drawn;
    for (const text of texts) {
      await draw(text);
      // Between figures the page stays answerable.
      await new Promise((next) => setTimeout(next));
    }
    root.dataset.drawn = texts.length;
  };

  let drawing = Promise.resolve();
  const show = (theme) => {
    root.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    drawing = drawing.then(drawAll);
  };

  button.addEventListener("click", () => {
    const theme = root.dataset.theme === "dark" ? "light" : "dark";
    remember(theme);
    show(theme);
  });
  system.addEventListener("change", () => { if (!remembered()) show(system.matches ? "dark" : "light"); });

  // Tables: numbers by their value, text as people sort it, nothing always last.
  const order = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  const keyOf = (cell) => {
    const value = cell.dataset.value;
    if (value === "") return null;
    return value === undefined ? cell.textContent : Number(value);
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : order.compare(String(a), String(b)));
  for (const head of document.querySelectorAll("th")) {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of head.parentElement.children) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = head.closest("table").tBodies[0];
      const rows = [...body.rows].map((row) => [keyOf(row.cells[head.cellIndex]), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        return down ? compare(b, a) : compare(a, b);
      });
      body.append(...rows.map(([, row]) => row));
    });
  }

  for (const copy of document.querySelectorAll(".copy")) {
    copy.addEventListener("click", async () => {
      const source = copy.previousElementSibling;
      try {
        await navigator.clipboard.writeText(source.textContent);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(source);
        copy.textContent = "Press Ctrl+C";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 2000);
    });
  }

  if (innerWidth < 640) document.querySelector("nav details").open = false;

  // Paper is white and as wide as a page, whatever the screen is.
  const PAPER = 680;
  let before = null;
  const sized = (width) => {
    for (const place of document.querySelectorAll(".plot")) {
      const columns = Math.max(1, Math.round(place.closest(".plots").clientWidth / Math.max(1, place.clientWidth)));
      Plotly.relayout(place, width ? { width: Math.floor(width / Math.min(2, columns)), autosize: false } : { width: null, autosize: true });
    }
  };
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    for (const text of texts) draw(text);
    sized(PAPER);
  });
  addEventListener("afterprint", () => {
    sized(null);
    if (before) show(before);
  });

  show(remembered() || (system.matches ? "dark" : "light"));
})();
