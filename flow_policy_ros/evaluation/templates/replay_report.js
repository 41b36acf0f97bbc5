"use strict";
// Draws the replay report. Names come from recordings: they are written as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const variants = data.variants, several = variants.length > 1;
const element = id => document.getElementById(id);
const plain = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); // plotly reads a little HTML
const colour = k => data.colours.commanded[k % data.colours.commanded.length];
const named = (text, k) => several ? `${text}, ${variants[k].letter}` : text;
const config = {responsive: true, displayModeBar: false};
const FONT = {family: 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif', size: 13, color: "#1c2430"};
const GRID = "#e3e8ee";
const style = extra => Object.assign({
  margin: {l: 58, r: 14, t: 8, b: 44}, height: 320, font: FONT, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "#fbfcfd",
  hovermode: "closest", legend: {orientation: "h", y: -0.22, yanchor: "top", x: 0}}, extra);
const axis = (title, extra) => Object.assign({title: {text: title, standoff: 6}, gridcolor: GRID, zerolinecolor: GRID, linecolor: "#b4bfcc"}, extra);

function say(id, text) {
  const paragraph = document.createElement("p");
  paragraph.className = "missing";
  paragraph.textContent = text;
  element(id).replaceChildren(paragraph);
}

// Numbers of evaluation/replay/plots.packed.
function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.data), c => c.charCodeAt(0)), view = new DataView(bytes.buffer);
  return Array.from({length: bytes.length / 2}, (_, k) => {
    const whole = view.getInt16(2 * k, true);
    return whole === -32768 ? null : packed.low + packed.step * (whole + 32767);
  });
}

function end() { return Math.max(...variants.map(v => v.time.length ? v.time[v.time.length - 1] : 0)); }

// One closed shape for all spans, over the whole height of an axis from 0 to 1.
function shade(spans, fill, name, extra) {
  const x = [], y = [];
  for (const [from, to] of spans) { x.push(from, from, to, to, null); y.push(0, 1, 1, 0, null); }
  return Object.assign({x, y, name, mode: "lines", line: {width: 0}, fill: "toself", fillcolor: fill, hoverinfo: "skip", yaxis: "y2"}, extra);
}

function strokes(times, line, name, extra) {
  const x = [], y = [];
  for (const t of times) { x.push(t, t, null); y.push(0, 1, null); }
  return Object.assign({x, y, name, mode: "lines", line, hoverinfo: "skip", yaxis: "y2"}, extra);
}

function drawTraces(joint) {
  const lines = [], first = variants.find(v => v.joints.includes(joint));
  variants.forEach((v, k) => {
    if (!v.joints.includes(joint)) return;
    const tint = several ? (k ? "rgba(0,121,107,0.16)" : "rgba(207,63,18,0.16)") : "rgba(239,108,0,0.22)";
    lines.push(shade(v.limited[joint], tint, named("a limit acts", k)));
    const seams = v.ready.filter(t => t !== null);
    if (seams.length <= data.most_seams) lines.push(strokes(seams, {color: "rgba(96,110,130,0.30)", width: 0.7}, named("seams", k), several && k ? {visible: "legendonly"} : {}));
  });
  const line = (v, name, key, style, extra) => ({x: v.time, y: unpack(v.series[key][joint]), name, mode: "lines", line: style,
    hovertemplate: "%{x:.2f} s<br>%{y:.4f}<extra>" + name + "</extra>", ...extra});
  if (first) lines.push(line(first, "recorded", "recorded", {color: data.colours.recorded, width: 3.5}));
  if (first) lines.push(line(first, "measured", "measured", {color: data.colours.measured, width: 1.4}, several ? {visible: "legendonly"} : {}));
  variants.forEach((v, k) => {
    if (!v.joints.includes(joint)) return;
    lines.push(line(v, named("predicted", k), "predicted", {color: several ? colour(k) : "#8e24aa", width: 1, dash: "dot"}));
    lines.push(line(v, named("commanded", k), "commanded", {color: colour(k), width: 1.9}));
  });
  Plotly.react("plot-traces", lines, style({height: 440, uirevision: "same", legend: {orientation: "h", y: -0.16, yanchor: "top", x: 0},
    xaxis: axis("time / s", {range: [0, end()]}), yaxis: axis(`${plain(joint)} / rad or m`, {automargin: true}),
    yaxis2: {overlaying: "y", range: [0, 1], visible: false, fixedrange: true}}), config);
}

function choose(joint) {
  for (const button of element("glances").querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(button.dataset.joint === joint));
  element("joint").value = joint;
  drawTraces(joint);
}

function setUpTraces() {
  const joints = Object.values(data.groups).flat();
  if (!joints.length || !variants.some(v => v.time.length)) return say("plot-traces", "No control tick was replayed: there is nothing to draw.");
  element("joint").addEventListener("change", event => choose(event.target.value));
  element("glances").addEventListener("click", event => {
    const button = event.target.closest("button");
    if (button) choose(button.dataset.joint);
  });
  choose(joints[0]);
}

function drawSteps() {
  const lines = [];
  variants.forEach((v, k) => {
    const steps = v.error_by_step;
    if (!steps.ahead_s.length) return;
    const percent = values => values.map(value => value === null ? null : 100 * value);
    const ms = steps.ahead_s.map(s => 1000 * s), hover = "%{x:.0f} ms ahead<br>%{y:.2f} %<extra></extra>";
    lines.push({x: ms, y: percent(steps.hold), name: named("holding", k), mode: "lines", hovertemplate: hover,
      line: {color: several ? colour(k) : data.colours.recorded, width: 2, dash: "dash"}});
    lines.push({x: ms, y: percent(steps.predicted), name: named("predicted", k), mode: "lines+markers", hovertemplate: hover,
      line: {color: colour(k), width: 2.5}, marker: {size: 5}});
  });
  if (!lines.length) return say("plot-steps", "not measured: no prediction could be held against a recorded command");
  Plotly.newPlot("plot-steps", lines, style({xaxis: axis("look-ahead / ms"), yaxis: axis("error / % of the motion", {rangemode: "tozero"})}), config);
}

function drawDelays() {
  const dots = [];
  variants.forEach((v, k) => {
    if (!v.chunks.length) return;
    const hover = "%{x:.2f} s<br>%{y:.1f} ms<extra></extra>";
    dots.push({x: v.chunks, y: v.delay_ms, name: named("until the command stage has it", k), mode: "markers", hovertemplate: hover, marker: {color: colour(k), size: 5}});
    dots.push({x: v.chunks, y: v.inference_ms, name: named("sampling on this machine", k), mode: "markers", hovertemplate: hover,
      marker: {color: several ? colour(k) : data.colours.measured, size: 5, symbol: several ? "circle-open" : "diamond"}});
    const lost = v.chunks.filter((_, i) => v.ready[i] === null);
    if (lost.length) dots.push({x: lost, y: lost.map(() => 0), name: named("lost", k), mode: "markers", hovertemplate: "%{x:.2f} s: lost<extra></extra>", marker: {color: "#c62828", symbol: "x", size: 8}});
  });
  if (!dots.length) return say("plot-delays", "No chunk was sampled.");
  Plotly.newPlot("plot-delays", dots, style({height: 300, xaxis: axis("time / s", {range: [0, end()]}), yaxis: axis("ms", {rangemode: "tozero"})}), config);
}

function drawStates() {
  const lines = new Map(), rows = variants.map((v, k) => several ? v.letter : "guard");
  variants.forEach((v, k) => {
    for (const [from, to, state] of v.states) {
      if (!lines.has(state)) lines.set(state, {x: [], y: [], text: [], name: plain(state), mode: "lines", connectgaps: false,
        line: {color: data.state_colours[state] || data.unknown_colour, width: 22}, hovertemplate: "%{text}<extra></extra>"});
      const one = lines.get(state), text = `${plain(state)}: ${from.toFixed(2)} to ${to.toFixed(2)} s`;
      one.x.push(from, Math.max(to, from + 1e-3), null); one.y.push(k, k, null); one.text.push(text, text, null);
    }
  });
  if (!lines.size) return say("plot-states", "No control tick was replayed.");
  const drawn = [...lines.values()];
  const stale = {x: [], y: []}, faults = {x: [], y: [], text: []};
  variants.forEach((v, k) => {
    for (const [from, to] of v.stale) { stale.x.push(from, Math.max(to, from + 1e-3), null); stale.y.push(k + 0.36, k + 0.36, null); }
    for (const [t, name] of v.faults) { faults.x.push(t); faults.y.push(k); faults.text.push(`${plain(name)} at ${t.toFixed(2)} s`); }
  });
  if (stale.x.length) drawn.push({...stale, name: "not sampled", mode: "lines", line: {color: "#1c2430", width: 4}, hoverinfo: "skip"});
  if (faults.x.length) drawn.push({...faults, name: "fault", mode: "markers", marker: {symbol: "x", size: 11, color: "#1c2430", line: {color: "#fff", width: 1.5}}, hovertemplate: "%{text}<extra></extra>"});
  Plotly.newPlot("plot-states", drawn, style({height: 112 + 46 * variants.length, margin: {l: 58, r: 14, t: 8, b: 40}, legend: {orientation: "h", y: -0.5, yanchor: "top", x: 0},
    xaxis: axis("time / s", {range: [0, end()]}), yaxis: {tickvals: rows.map((_, k) => k), ticktext: rows, range: [variants.length - 0.4, -0.6], showgrid: false, zeroline: false, fixedrange: true}}), config);
}

setUpTraces(); drawSteps(); drawDelays(); drawStates();
