"use strict";
// Listens to the events, and shows an instant: the newest, or the one that was chosen.
const KEEP_LIVE_S = 70, FRAME_MS = 66, AHEAD = 0.18; // of the window at most, for what a chunk predicts
const store = new Store(0);
const player = {following: true, playing: false, touched: false, t: 0, last: 0, drawn: 0};
let cells = [], chosen = 0, ended = false, heard = performance.now(), connected = false, dirty = true;
const cards = buildCards();

function clock(t) {
  if (!store.scene.live) return `${number(t, 2)} s`;
  return store.scene.origin > 1e8 ? new Date((store.scene.origin + t) * 1000).toLocaleTimeString([], {hour12: false}) : `${number(store.scene.origin + t, 2)} s`;
}

function setScene(scene) {
  if (scene.run !== store.scene.run) { store.clear(); player.following = scene.live; player.playing = player.touched = false; player.t = 0; ended = false; chosen = -1; }
  store.scene = scene;
  store.keep = scene.live ? KEEP_LIVE_S : 0;
  document.title = `${scene.title} – flow_policy view`;
  setText(element("title"), scene.title);
  cells = buildJoints(scene, choose);
  if (chosen < 0 || chosen >= scene.joints.length) chosen = 0;
  choose(chosen);
}

function choose(column) {
  chosen = column;
  for (const cell of cells) cell.button.setAttribute("aria-pressed", String(cell.column === column));
  setText(element("large-name"), store.scene.joints[column] || "");
  dirty = true;
}

function showLink() {
  const link = element("link"), live = store.scene.live, quiet = performance.now() - heard > 3000;
  link.className = `link ${!connected && !ended ? "lost" : !live ? "recorded" : quiet ? "lost" : "live"}`;
  setText(link.lastElementChild, !connected && !ended ? "not connected" : !live ? (ended ? "recording" : "reading the recording …") : quiet ? "no news" : "live");
  const told = store.at(player.t)?.instruction;
  const source = live ? "live" : `${store.scene.source} · ${number(store.scene.seconds, 1)} s`;
  if (store.shots.length) setText(element("source"), told ? `${source} · “${told}”` : source);
}

function view() {
  const span = Number(element("window").value), ahead = Math.min(store.horizon, span * AHEAD);
  const now = player.t, length = Math.min(span, Math.max(store.scene.live ? span : store.scene.seconds, 0.5));
  const from = store.scene.live ? now - length + ahead : Math.max(now - length + ahead, -0.01 * length); // nothing lies before a recording
  return {now, from, to: from + length, zero: store.scene.live ? now : 0};
}

function draw() {
  const shot = store.at(player.t), window_ = view();
  showGuard(shot);
  showPicture(shot, store.scene.run);
  if (shot) for (const card of cards) card(shot);
  showNodes(shot);
  showEvents(store, player.t, clock);
  drawTimeline(element("timeline"), store, window_);
  drawJoint(element("large"), store, window_, chosen, true);
  const limited = (shot && shot.figures) || {};
  for (const cell of cells) {
    const measured = store.rowAt(store.measured, player.t, cell.column), sent = store.rowAt(store.executed, player.t, cell.column);
    setText(cell.value, number(sent ?? measured, 3));
    cell.row.classList.toggle("limited", Boolean(limited[`limited.${cell.joint}`]));
    drawJoint(cell.drawing, store, window_, cell.column, false);
    if (cell.column === chosen) showChosen(cell.joint, measured, sent, limited[`limited.${cell.joint}`]);
  }
  const seek = element("seek");
  seek.min = store.start(); seek.max = Math.max(store.end(), store.start() + 0.001);
  if (document.activeElement !== seek || player.following || player.playing) seek.value = player.t;
  setText(element("clock"), store.scene.live ? (player.following ? clock(player.t) : `${number(player.t - store.end(), 1)} s`) : `${number(player.t, 2)} of ${number(store.scene.seconds, 1)} s`);
  const button = element("play"), running = player.following || player.playing;
  button.classList.toggle("live", store.scene.live && player.following);
  setText(button, running ? "Pause" : store.scene.live ? "Live" : "Play");
}

function showChosen(joint, measured, sent, ticks) {
  const limits = store.scene.limits[joint];
  const parts = [`measured ${number(measured, 4)}`, `sent ${number(sent, 4)}`];
  if (measured !== null && sent !== null) parts.push(`difference ${number(sent - measured, 4)}`);
  if (limits) parts.push(`range ${number(limits[0], 3)} to ${number(limits[1], 3)}`);
  if (ticks) parts.push(`limited in ${ticks} ticks`);
  setText(element("large-text"), parts.join(" · "));
}

function tick(time) {
  const passed = (time - player.last) / 1000;
  player.last = time;
  if (player.following && store.shots.length) { if (player.t !== store.end()) { player.t = store.end(); dirty = true; } }
  else if (player.playing) {
    player.t = Math.min(store.end(), player.t + passed * Number(element("speed").value));
    player.playing = player.t < store.end();
    dirty = true;
  } else if (store.shots.length && player.t < store.start()) { player.t = store.start(); dirty = true; }
  if (dirty && !document.hidden && time - player.drawn >= FRAME_MS) { player.drawn = time; dirty = false; draw(); }
  requestAnimationFrame(tick);
}

function toggle() {
  player.touched = true;
  if (player.following || player.playing) { player.following = player.playing = false; }
  else if (store.scene.live) player.following = true;
  else { if (player.t >= store.end() - 0.01) player.t = store.start(); player.playing = true; }
  dirty = true;
}

function seek(t) { player.touched = true; player.following = player.playing = false; player.t = Math.min(store.end(), Math.max(store.start(), t)); dirty = true; }

function listen() {
  const source = new EventSource("/events");
  source.onopen = () => { connected = true; };
  source.onerror = () => { connected = false; dirty = true; };
  source.addEventListener("scene", event => { heard = performance.now(); setScene(JSON.parse(event.data)); });
  source.addEventListener("snapshot", event => {
    heard = performance.now();
    store.add(JSON.parse(event.data));
    dirty = true;
  });
  source.addEventListener("end", () => {
    source.close();
    ended = true;
    if (!store.scene.live && !player.touched) player.t = store.end();
    dirty = true;
  });
}

element("play").addEventListener("click", toggle);
element("seek").addEventListener("input", event => seek(Number(event.target.value)));
element("window").addEventListener("change", () => { dirty = true; });
window.addEventListener("resize", () => { dirty = true; });
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); dirty = true; });
document.addEventListener("keydown", event => {
  if (["INPUT", "SELECT", "BUTTON"].includes(event.target.tagName) && event.key !== "Escape") return;
  if (event.key === " ") { toggle(); event.preventDefault(); }
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") seek(player.t + (event.key === "ArrowLeft" ? -0.1 : 0.1));
});
element("picture").addEventListener("load", () => { dirty = true; });
setInterval(showLink, 250);
readColours();
buildLegend();
listen();
requestAnimationFrame(tick);
