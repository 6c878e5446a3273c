// Interactive charts in the place of static pictures, one by one, once Plotly is unpacked. Where something fails, its
// picture stays. Colours come from the page's style, so that charts follow the light and the dark scheme.
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const DARK_COLOURS = JSON.parse(document.getElementById("dark-colours").textContent);
  // Of fingers: a drag scrolls the page instead of zooming a chart.
  const DRAG = matchMedia("(pointer: coarse)").matches ? false : "zoom";

  async function loadPlotly() {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (each) => each.charCodeAt(0));
    const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(unpacked).text();
    document.head.append(script);
  }

  function template() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = {
      automargin: true,
      color: colour("--muted"),
      gridcolor: colour("--rule"),
      linecolor: colour("--muted"),
      zerolinecolor: colour("--rule"),
      title: { font: { color: colour("--ink"), size: 12 }, standoff: 10 },
    };
    return {
      layout: {
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        colorway: ["#0072B2", "#D55E00", "#009E73", "#000000", "#AA4499", "#56B4E9"].map(colourOf),
        font: { family: style.fontFamily, size: 12, color: colour("--ink") },
        title: { font: { size: 14 } },
        margin: { l: 48, r: 16, t: 24, b: 40 },
        hoverlabel: { bgcolor: colour("--paper"), bordercolor: colour("--muted"), font: { color: colour("--ink") } },
        hovermode: "closest",
        legend: { orientation: "h", x: 0, xref: "paper", y: 0, yref: "container", yanchor: "bottom" },
        xaxis: axis,
        yaxis: axis,
        coloraxis: { colorbar: { outlinewidth: 0 } },
      },
    };
  }

  // `#0072B2` and `rgba(0, 114, 178, 0.2)`: a colour of the light page as the scheme has it.
  function colourOf(text) {
    if (!dark.matches) return text;
    const found = DARK_COLOURS[text.toLowerCase()];
    if (found) return found;
    const parts = /^rgba?\((\d+), ?(\d+), ?(\d+)(.*)\)$/.exec(text);
    if (!parts) return text;
    const hex = (digits) => Number(digits).toString(16).padStart(2, "0");
    const mapped = DARK_COLOURS["#" + parts.slice(1, 4).map(hex).join("")];
    if (!mapped) return text;
    const channels = [1, 3, 5].map((at) => parseInt(mapped.slice(at, at + 2), 16)).join(",");
    return `${text.slice(0, text.indexOf("("))}(${channels}${parts[4]})`;
  }

  function coloured(value) {
    if (typeof value === "string") return colourOf(value);
    if (Array.isArray(value)) return value.map(coloured);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, coloured(inner)]));
  }

  // The axes of a letter that may be logarithmic: lines, points and bars of nothing but positive numbers.
  function axesOf(traces, letter) {
    const drawn = ["scatter", "scattergl", "bar", undefined];
    const isPositive = (values) =>
      Array.isArray(values) && values.every((each) => each === null || (typeof each === "number" && each > 0));
    if (!traces.every((trace) => drawn.includes(trace.type) && isPositive(trace[letter]))) return [];
    return [...new Set(traces.map((trace) => `${letter}axis${(trace[`${letter}axis`] ?? letter).slice(1)}`))];
  }

  function addControl(figure, chart, letter, axes) {
    const isLog = chart.layout[axes[0]]?.type === "log";
    const label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: isLog });
    label.append(box, ` Logarithmic ${letter} axis`);
    box.addEventListener("change", () => {
      const type = box.checked ? "log" : "linear";
      const changes = axes.flatMap((axis) => [[`${axis}.type`, type], [`${axis}.autorange`, true]]);
      Plotly.relayout(chart, Object.fromEntries(changes));
    });
    figure.querySelector(".controls").append(label);
  }

  // What the legend does for the mouse, for keyboards and screen readers: a box for each trace in the legend.
  function addSwitches(figure, chart, data) {
    const named = data.flatMap((trace, at) => (trace.name && trace.showlegend !== false ? [at] : []));
    if (named.length < 2) return;
    // A band has no entry of its own: it goes with the first of its group.
    const isFirst = (at) => named.find((each) => data[each].legendgroup === data[at].legendgroup) === at;
    const bandsOf = (at) =>
      data[at].legendgroup === undefined || !isFirst(at)
        ? []
        : data.flatMap((trace, each) =>
            !named.includes(each) && trace.legendgroup === data[at].legendgroup ? [each] : [],
          );
    const details = document.createElement("details");
    details.append(Object.assign(document.createElement("summary"), { textContent: "Show or hide" }));
    const boxes = named.map((at) => {
      const label = document.createElement("label");
      const box = Object.assign(document.createElement("input"), { type: "checkbox" });
      label.append(box, ` ${plain(data[at].name)}`);
      box.addEventListener("change", () => {
        const visible = box.checked ? true : "legendonly";
        const switched = [at, ...bandsOf(at)];
        for (const each of switched) data[each].visible = visible; // for a change of scheme, which draws the data anew
        Plotly.restyle(chart, { visible }, switched);
      });
      details.append(label);
      return box;
    });
    const follow = () => named.forEach((at, place) => (boxes[place].checked = chart._fullData[at].visible === true));
    chart.on("plotly_afterplot", follow);
    follow();
    figure.querySelector(".controls").append(details);
  }

  // A name without the markup that Plotly reads in it.
  function plain(name) {
    return new DOMParser().parseFromString(name.replaceAll("<br>", " "), "text/html").body.textContent;
  }

  async function draw(figure) {
    const chart = figure.querySelector(".chart");
    const { data, layout = {} } = JSON.parse(figure.querySelector(".chart-data").textContent);
    const react = (shown) =>
      Plotly.react(
        chart,
        coloured(data),
        // What the reader switched stays through a change of scheme.
        { uirevision: "kept", dragmode: DRAG, ...coloured(shown), template: template() },
        { displayModeBar: false, responsive: true },
      );
    chart.hidden = false;
    try {
      await react(layout);
    } catch (error) {
      chart.hidden = true;
      throw error;
    }
    for (const letter of ["x", "y"]) {
      const axes = axesOf(data, letter);
      if (axes.length) addControl(figure, chart, letter, axes);
    }
    addSwitches(figure, chart, data);
    figure.classList.add("drawn");
    dark.addEventListener("change", () => react(chart.layout));
  }

  async function drawAll() {
    await loadPlotly();
    for (const figure of document.querySelectorAll("figure:has(.chart)")) {
      await draw(figure).catch((error) => console.error(figure.id, error));
    }
    document.documentElement.dataset.charts = "drawn";
  }

  drawAll().catch((error) => console.error("The charts stay static.", error));
})();
