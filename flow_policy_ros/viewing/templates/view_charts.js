"use strict";
// Drawing on canvases: the guard and delays over time, a joint over time. Given everything, keeps nothing but sizes.
const DELAYS = [
  ["chunk", "age of the chunk in force"], ["until_followed", "observation → followed"], ["inference", "inference"],
  ["observation", "oldest input of the chunk"], ["joint_state", "joint state"]];
const STATES = ["inactive", "starting", "active", "stopping", "holding", "fault"];
const FONT = '11px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
let colours = {};

function readColours() {
  const style = getComputedStyle(document.documentElement);
  colours = new Proxy({}, {get: (made, name) => made[name] || (made[name] = style.getPropertyValue(`--${name}`).trim() || "#8a94a1")});
}

// A canvas ready to be drawn on, in CSS pixels; null while it has no size.
function canvas(element) {
  const wide = element.clientWidth, high = element.clientHeight, scale = window.devicePixelRatio || 1;
  if (!wide || !high) return null;
  if (element.width !== Math.round(wide * scale) || element.height !== Math.round(high * scale)) {
    element.width = Math.round(wide * scale);
    element.height = Math.round(high * scale);
  }
  const pen = element.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, wide, high);
  pen.font = FONT;
  return {pen, wide, high};
}

// Steps of 1, 2 or 5 so that about `count` of them fit.
function step(span, count) {
  const raw = span / Math.max(1, count), power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map(k => k * power).find(k => k >= raw) || power;
}

function drawTimeline(element, store, view) {
  const c = canvas(element);
  if (!c) return;
  const {pen, wide, high} = c, left = 44, right = 10, top = 26, bottom = 20;
  const x = t => left + (t - view.from) / (view.to - view.from) * (wide - left - right);
  const low = Math.log10(0.5), top10 = Math.log10(20000);
  const y = ms => high - bottom - (Math.log10(Math.min(20000, Math.max(0.5, ms))) - low) / (top10 - low) * (high - top - bottom);
  pen.fillStyle = colours.plot;
  pen.fillRect(left, top, wide - left - right, high - top - bottom);
  pen.textBaseline = "middle"; pen.textAlign = "right"; pen.lineWidth = 1;
  for (const [ms, text] of [[1, "1 ms"], [10, "10"], [100, "100"], [1000, "1 s"], [10000, "10 s"]]) {
    pen.strokeStyle = colours.grid; line(pen, left, y(ms), wide - right, y(ms));
    pen.fillStyle = colours.soft; pen.fillText(text, left - 5, y(ms));
  }
  timeAxis(pen, x, view, left, wide - right, top, high - bottom, high - 9);
  ribbon(pen, store, view, x, left, wide - right);
  pen.save(); pen.beginPath(); pen.rect(left, 0, wide - left - right, high - bottom); pen.clip();
  const shots = store.shots.slice(Math.max(0, after(store.shots, view.from, s => s.t) - 1), after(store.shots, view.now, s => s.t) + 1);
  for (const [key] of [...DELAYS].reverse()) {
    pen.strokeStyle = colours[`d-${key}`]; pen.lineWidth = key === "chunk" ? 2 : 1.4; pen.beginPath();
    let open = false;
    for (const shot of shots) {
      const ms = shot.delays ? shot.delays[key] : undefined;
      if (ms === undefined || shot.t > view.now) { open = false; continue; }
      if (open) pen.lineTo(x(shot.t), y(ms)); else pen.moveTo(x(shot.t), y(ms));
      open = true;
    }
    pen.stroke();
  }
  for (const event of store.events) {
    if (event.t < view.from || event.t > view.now || event.kind === "state") continue;
    pen.strokeStyle = pen.fillStyle = {fault: colours.bad, error: colours.bad, warning: colours.warn, refused: colours.warn}[event.kind] || colours.good;
    pen.setLineDash([3, 3]); pen.lineWidth = 1; line(pen, x(event.t), top, x(event.t), high - bottom); pen.setLineDash([]);
    pen.beginPath(); pen.moveTo(x(event.t) - 4, top); pen.lineTo(x(event.t) + 4, top); pen.lineTo(x(event.t), top + 6); pen.fill();
  }
  pen.restore();
  nowLine(pen, x(view.now), 2, high - bottom);
}

// The guard's state as a band of colours, with its name where there is room.
function ribbon(pen, store, view, x, left, right) {
  pen.fillStyle = colours.grid; pen.fillRect(left, 4, right - left, 17);
  store.guards.forEach((guard, k) => {
    const next = store.guards[k + 1], from = Math.max(guard.t, view.from), to = Math.min(next ? next.t : view.now, view.now);
    if (to <= from) return;
    const a = Math.max(left, x(from)), b = Math.max(a + 1, x(to));
    pen.fillStyle = STATES.includes(guard.state) ? colours[`state-${guard.state}`] : "#616161";
    pen.fillRect(a, 4, b - a, 17);
    if (b - a > pen.measureText(guard.state).width + 8) {
      pen.fillStyle = guard.state === "stopping" ? "#221700" : "#fff"; pen.textAlign = "center"; pen.textBaseline = "middle";
      pen.fillText(guard.state, (a + b) / 2, 13);
    }
  });
  pen.fillStyle = colours.soft; pen.textAlign = "right"; pen.textBaseline = "middle"; pen.fillText("guard", left - 5, 13);
  if (!store.guards.length) { pen.textAlign = "left"; pen.fillText("no report of the command node", left + 6, 13); }
}

function timeAxis(pen, x, view, left, right, top, bottom, baseline) {
  const by = step(view.to - view.from, (right - left) / 90);
  pen.textAlign = "center"; pen.textBaseline = "middle";
  for (let t = Math.ceil((view.from - view.zero) / by) * by; t <= view.to - view.zero + 1e-9; t += by) {
    const at = x(t + view.zero);
    pen.strokeStyle = colours.grid; pen.lineWidth = 1; line(pen, at, top, at, bottom);
    if (at > left + 12 && at < right - 12) { pen.fillStyle = colours.soft; pen.fillText(`${number(t, by < 1 ? 1 : 0)} s`, at, baseline); }
  }
}

function nowLine(pen, at, top, bottom) { pen.strokeStyle = colours.ink; pen.lineWidth = 1; pen.globalAlpha = 0.55; line(pen, at, top, at, bottom); pen.globalAlpha = 1; }

function line(pen, x0, y0, x1, y1) { pen.beginPath(); pen.moveTo(x0, y0); pen.lineTo(x1, y1); pen.stroke(); }

// One joint: what was measured, what was sent, the chunks. `large` has axes, and every chunk of the window.
function drawJoint(element, store, view, column, large) {
  const c = canvas(element);
  if (!c) return;
  const {pen, wide, high} = c, joint = store.scene.joints[column], limits = store.scene.limits[joint];
  const left = large ? 52 : 0, right = large ? 10 : 0, top = 4, bottom = large ? 20 : 3;
  const slice = rows => rows.slice(Math.max(0, after(rows, view.from, r => r[0]) - 1), after(rows, view.now, r => r[0]));
  const measured = slice(store.measured), executed = slice(store.executed);
  const newest = store.chunkAt(view.now);
  const chunks = large ? store.chunks.slice(Math.max(0, after(store.chunks, view.from, k => k.t) - 1), after(store.chunks, view.now, k => k.t)) : newest ? [newest] : [];
  let low = Infinity, top1 = -Infinity;
  const see = value => { if (value !== null && value !== undefined) { low = Math.min(low, value); top1 = Math.max(top1, value); } };
  for (const rows of [measured, executed]) for (const row of rows) see(row[column + 1]);
  for (const chunk of chunks) for (const row of chunk.rows) see(row[column]);
  if (!(low <= top1)) { if (large) { pen.fillStyle = colours.soft; pen.textAlign = "center"; pen.fillText("nothing of this joint in this window", wide / 2, high / 2); } return; }
  const span = Math.max(top1 - low, 0.04), centre = (low + top1) / 2, reach = span * 0.56;
  const x = t => left + (t - view.from) / (view.to - view.from) * (wide - left - right);
  const y = v => high - bottom - (v - centre + reach) / (2 * reach) * (high - top - bottom);
  if (large) {
    pen.fillStyle = colours.plot; pen.fillRect(left, top, wide - left - right, high - top - bottom);
    timeAxis(pen, x, view, left, wide - right, top, high - bottom, high - 9);
    const by = step(2 * reach, 5);
    pen.textAlign = "right"; pen.textBaseline = "middle";
    for (let v = Math.ceil((centre - reach) / by) * by; v <= centre + reach; v += by) {
      pen.strokeStyle = colours.grid; pen.lineWidth = 1; line(pen, left, y(v), wide - right, y(v));
      pen.fillStyle = colours.soft; pen.fillText(number(v, Math.max(0, -Math.floor(Math.log10(by)))), left - 5, y(v));
    }
  }
  pen.save(); pen.beginPath(); pen.rect(left, top, wide - left - right, high - top - bottom); pen.clip();
  for (const limit of limits || []) if (limit !== null && Math.abs(limit - centre) < reach) {
    pen.strokeStyle = colours.limit; pen.lineWidth = large ? 1.5 : 1; pen.setLineDash([5, 4]); line(pen, left, y(limit), wide - right, y(limit)); pen.setLineDash([]);
  }
  pen.strokeStyle = colours.chunk;
  for (const chunk of chunks) {
    pen.globalAlpha = chunk === newest ? 1 : 0.22; pen.lineWidth = chunk === newest ? (large ? 2.2 : 1.6) : 1;
    trace(pen, chunk.times.map((t, k) => [t, chunk.rows[k][column]]), 1, x, y, 1);
  }
  pen.globalAlpha = 1;
  const every = large ? 1 : Math.max(1, Math.floor(Math.max(measured.length, executed.length) / 160));
  pen.strokeStyle = colours.measured; pen.lineWidth = large ? 2.4 : 1.6; trace(pen, measured, column + 1, x, y, every);
  pen.strokeStyle = colours.executed; pen.lineWidth = large ? 1.5 : 1.1; trace(pen, executed, column + 1, x, y, every);
  pen.restore();
  nowLine(pen, x(view.now), top, high - bottom);
}

// A line through the numbers in a column of rows; a joint that a message does not name does not break it.
function trace(pen, rows, column, x, y, every) {
  pen.beginPath();
  let open = false;
  for (let k = (rows.length - 1) % every; k < rows.length; k += every) {
    const value = rows[k][column];
    if (value === null || value === undefined) continue;
    if (open) pen.lineTo(x(rows[k][0]), y(value)); else pen.moveTo(x(rows[k][0]), y(value));
    open = true;
  }
  pen.stroke();
}
