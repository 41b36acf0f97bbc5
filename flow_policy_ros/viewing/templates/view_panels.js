"use strict";
// The parts of the page that are text and boxes. Names and messages come from the robot: they are written as text, never as markup.
const element = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function setText(target, text) { if (target.textContent !== text) target.textContent = text; }

// The joints' buttons, by group; `choose` is called with a column.
function buildJoints(scene, choose) {
  const grouped = Object.entries(scene.groups), named = new Set(grouped.flatMap(([, members]) => members));
  const rest = scene.joints.filter(joint => !named.has(joint)), cells = [];
  const parts = rest.length ? [...grouped, [grouped.length ? "others" : "", rest]] : grouped;
  const grid = element("grid");
  grid.replaceChildren();
  for (const [name, members] of parts) {
    const part = make("div"), small = make("div", "small");
    if (parts.length > 1) part.append(make("div", "group", name || "\u00a0"));
    for (const joint of members) {
      const column = scene.joints.indexOf(joint);
      if (column < 0) continue;
      const button = make("button"), row = make("div", "row"), drawing = make("canvas"), value = make("span");
      button.type = "button"; button.title = joint;
      row.append(make("b", "", joint), value);
      button.append(row, drawing);
      button.addEventListener("click", () => choose(column));
      small.append(button);
      cells.push({column, joint, button, row, value, drawing});
    }
    part.append(small);
    grid.append(part);
  }
  return cells;
}

const CARDS = [
  ["chunk age", "since the observation acted upon", s => duration(s.delays?.chunk), s => grade(s.delays?.chunk, 500, 1000)],
  ["inference", "of the newest chunk", s => duration(s.delays?.inference), () => ""],
  ["observation", "oldest input of the chunk", s => duration(s.delays?.observation), s => grade(s.delays?.observation, 300, 500)],
  ["until followed", "from observation to motion", s => duration(s.delays?.until_followed), () => ""],
  ["joint state", "its age: since it was measured", s => duration(s.delays?.joint_state), s => grade(s.delays?.joint_state, 100, 200)],
  ["joint states", "messages a second", s => rate(s, "joint_state"), () => ""],
  ["set-points", "messages a second", s => rate(s, "executed"), () => ""],
  ["chunks", "messages a second", s => rate(s, "chunk"), () => ""],
  ["ticks limited", "of those with a chunk being followed", s => limited(s), () => ""],
  ["period error", "p99 of the control loop", s => duration(s.figures?.["command.period_error_ms.p99"]), () => ""],
];

function grade(ms, warn, bad) { return ms === undefined ? "" : ms > bad || ms < -50 ? "bad" : ms > warn ? "warn" : ""; }
function rate(shot, role) { const hz = shot.rates?.[role]; return hz === undefined ? ["–", ""] : [number(hz, hz < 20 ? 1 : 0), "Hz"]; }
function limited(shot) {
  const active = shot.figures?.["command.ticks_active"], ticks = shot.figures?.["command.ticks_limited"];
  return active ? [number(100 * ticks / active, 1), "%"] : ["–", ""];
}

function buildCards() {
  return CARDS.map(([name, text, value, level]) => {
    const card = make("div", "card"), big = make("b"), unit = make("small");
    card.title = text;
    card.append(big, make("span", "", name));
    element("cards").append(card);
    return shot => {
      const [words, what] = value(shot), grading = words === "–" ? "unknown" : level(shot);
      big.replaceChildren(words, unit);
      unit.textContent = what;
      card.className = `card ${grading}`;
    };
  });
}

function buildLegend() {
  for (const [key, text] of DELAYS) {
    const entry = make("span"), swatch = make("i");
    swatch.style.background = `var(--d-${key})`;
    entry.append(swatch, text);
    element("delay-legend").append(entry);
  }
}

function showGuard(shot) {
  const guard = shot && shot.guard, badge = element("guard"), state = guard ? guard.state : "";
  badge.dataset.state = state;
  badge.classList.toggle("silent", Boolean(guard && guard.level === 3));
  badge.style.setProperty("--state", STATES.includes(state) ? `var(--state-${state})` : "#8a94a1");
  setText(element("guard-state"), state || "no guard report");
  const alarm = element("alarm"), faults = guard ? guard.faults || [] : [];
  setText(element("guard-text"), guard ? (faults.length && guard.level < 3 ? "" : guard.message) : shot ? "the command node's diagnostics are missing" : "");
  alarm.hidden = !faults.length;
  if (faults.length) setText(alarm, `${faults.length > 1 ? "Faults" : "Fault"}: ${guard.message || faults.join(", ")}`);
}

function showPicture(shot, run) {
  const picture = shot && shot.picture, image = element("picture"), boxes = element("boxes");
  element("no-picture").hidden = Boolean(picture);
  if (!picture) { image.hidden = true; boxes.replaceChildren(); setText(element("picture-text"), "\u00a0"); return; }
  const address = `/picture/${run}/${picture.number}.jpg`;
  if (image.dataset.wanted !== address && image.dataset.busy !== "yes") {
    image.dataset.wanted = address; image.dataset.busy = "yes";
    const ahead = new Image();
    ahead.onload = () => { image.src = ahead.src; image.hidden = false; image.dataset.busy = ""; };
    ahead.onerror = () => { image.dataset.busy = ""; };
    ahead.src = address;
  }
  const found = picture.boxes || [], age = (shot.t - picture.t) * 1000, [words, unit] = duration(age);
  setText(element("picture-text"), `${words} ${unit} old${found.length ? ` · ${found.map(b => `${b.label} ${b.score.toFixed(2)}`).join(", ")}` : ""}`);
  drawBoxes(boxes, image, found);
}

// In units of the picture's pixels, so that names are not stretched.
function drawBoxes(svg, image, found) {
  const wide = image.naturalWidth || 4, high = image.naturalHeight || 3, size = wide / 30;
  svg.setAttribute("viewBox", `0 0 ${wide} ${high}`);
  svg.style.top = `${image.offsetTop}px`; svg.style.height = `${image.clientHeight}px`;
  svg.replaceChildren(...found.flatMap(detection => {
    const [cx, cy, w, h] = detection.box, frame = document.createElementNS(SVG, "rect"), name = document.createElementNS(SVG, "text");
    const at = {x: (cx - w / 2) * wide, y: (cy - h / 2) * high, width: w * wide, height: h * high, fill: "none", stroke: "#ffeb3b", "stroke-width": wide / 220};
    for (const [key, value] of Object.entries(at)) frame.setAttribute(key, value);
    const text = {x: Math.max(2, at.x), y: Math.max(size, at.y - size / 4), "font-size": size, fill: "#ffeb3b", stroke: "#000", "stroke-width": size / 5, "paint-order": "stroke"};
    for (const [key, value] of Object.entries(text)) name.setAttribute(key, value);
    name.textContent = detection.label;
    return [frame, name];
  }));
}

function showEvents(store, now, clock) {
  const shown = store.events.slice(-120).reverse(), body = element("events").tBodies[0];
  const key = `${shown.length} ${store.events.length ? store.events[store.events.length - 1].t : ""} ${store.events.filter(e => e.t > now).length}`;
  if (body.dataset.key === key) return;
  body.dataset.key = key;
  element("no-events").hidden = shown.length > 0;
  body.replaceChildren(...shown.map(event => {
    const row = make("tr", event.t > now ? "ahead" : ""), what = make("td", "what");
    what.append(make("span", `tag ${event.kind}`, event.kind));
    row.append(make("td", "when", clock(event.t)), what, make("td", "", event.text));
    return row;
  }));
}

function showNodes(shot) {
  const nodes = (shot && shot.nodes) || [], body = element("nodes").tBodies[0], key = JSON.stringify(nodes.map(n => [n.name, n.level, n.message]));
  if (body.dataset.key === key) return;
  body.dataset.key = key;
  element("no-nodes").hidden = nodes.length > 0;
  body.replaceChildren(...nodes.map(node => {
    const row = make("tr"), mark = make("td", "what"), name = make("td", "what"), dot = make("i", `dot l${node.level}`);
    dot.title = ["well", "warning", "error", "silent"][node.level] || "";
    mark.append(dot); name.append(make("b", "", node.name));
    row.append(mark, name, make("td", "", node.level === 3 ? `silent; last: ${node.message}` : node.message));
    return row;
  }));
}
