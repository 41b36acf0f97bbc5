"use strict";
// What has come so far, for any instant: bounded in time, searched by halving. Draws nothing.
class Store {
  constructor(keepSeconds) { this.keep = keepSeconds; this.clear(); }

  clear() {
    this.scene = {title: "", live: true, joints: [], groups: {}, limits: {}, origin: 0, run: "", seconds: 0, source: ""};
    this.drop();
  }

  drop() { // what was seen, not the scene
    this.shots = []; this.measured = []; this.executed = []; this.chunks = []; this.events = []; this.delays = []; this.guards = [];
    this.horizon = 0;
  }

  add(shot) {
    if (this.shots.length && shot.t < this.end() - 0.4) this.drop(); // a clock went back
    this.shots.push(shot);
    for (const row of shot.measured || []) push(this.measured, row, r => r[0]);
    for (const row of shot.executed || []) push(this.executed, row, r => r[0]);
    if (shot.chunk) {
      push(this.chunks, shot.chunk, c => c.t);
      this.horizon = Math.max(this.horizon, shot.chunk.times[shot.chunk.times.length - 1] - shot.chunk.t);
    }
    for (const event of shot.events || []) push(this.events, event, e => e.t);
    const last = this.guards[this.guards.length - 1], guard = shot.guard;
    if (guard && (!last || last.state !== guard.state || last.since !== guard.since))
      this.guards.push({t: last ? Math.max(last.t, Math.min(guard.since, shot.t)) : shot.t, state: guard.state, since: guard.since});
    delete shot.measured; delete shot.executed; delete shot.chunk;
    if (this.keep) this.forget(shot.t - this.keep);
  }

  forget(before) {
    if (this.shots.length < 2 || this.shots[0].t > before - 5) return; // in portions, which costs less than one by one
    const cut = (list, at) => list.splice(0, Math.max(0, after(list, before, at) - 1));
    cut(this.shots, s => s.t); cut(this.measured, r => r[0]); cut(this.executed, r => r[0]);
    cut(this.chunks, c => c.t); cut(this.guards, g => g.t);
    this.events = this.events.slice(-300);
  }

  start() { return this.shots.length ? this.shots[0].t : 0; }
  end() { return this.shots.length ? this.shots[this.shots.length - 1].t : 0; }
  at(t) { return this.shots[Math.max(0, after(this.shots, t, s => s.t) - 1)] || null; }
  chunkAt(t) { return this.chunks[after(this.chunks, t, c => c.t) - 1] || null; }
  rowAt(rows, t, column) { // the newest number of a joint: a message need not name every one
    for (let k = after(rows, t, r => r[0]) - 1, tries = 0; k >= 0 && tries < 40; k--, tries++)
      if (rows[k][column + 1] !== null && rows[k][column + 1] !== undefined) return rows[k][column + 1];
    return null;
  }
}

// Index of the first element whose instant lies behind t.
function after(list, t, at) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (at(list[middle]) <= t) low = middle + 1; else high = middle;
  }
  return low;
}

// Nearly always at the end: stamps come a little out of order at most.
function push(list, item, at) {
  let k = list.length;
  while (k > 0 && at(list[k - 1]) > at(item)) k--;
  list.splice(k, 0, item);
}

function number(value, digits) { return value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−"); }

// Milliseconds for reading at a glance.
function duration(ms) {
  if (ms === null || ms === undefined) return ["–", ""];
  const size = Math.abs(ms);
  return size >= 10000 ? [number(ms / 1000, 0), "s"] : size >= 1000 ? [number(ms / 1000, 1), "s"] : [number(ms, size < 10 ? 1 : 0), "ms"];
}
