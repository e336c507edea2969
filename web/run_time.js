// What a run's seconds are in words, for the bar above the tree and for Compare. No page: texts alone.

import { text } from "./texts.js";

const HOUR = 3600;
const ALIKE = 1.02; // full sampling that takes less than so many times as long takes as long
const received = new WeakMap(); // seconds of a message -> when they came

/**
 * The seconds of a run as a line: "31 % · 12 s · about 2 min left" while it runs, "41 s · full sampling: about 1 min
 * 36 s" when it is done.
 *
 * @param status  {state, share, seconds: {elapsed, left, full}}, numbers or null, as the server's messages have them
 * @param now     milliseconds, on the clock of the page
 */
export function timeText({ state, share, seconds }, now = performance.now()) {
  if (typeof seconds?.elapsed !== "number") return "";
  if (state !== "running") return endOf(state, seconds);
  if (!received.has(seconds)) received.set(seconds, now);
  const since = (now - received.get(seconds)) / 1000; // a step may take minutes: the clock goes on meanwhile
  const { elapsed, left } = seconds;
  const parts = [inWords(elapsed + since)];
  if (typeof share === "number") parts.unshift(`${Math.floor(100 * share)} %`);
  if (left) parts.push(text("time.left", { time: about(Math.max(left - since, 0)) }));
  return parts.join(" · ");
}

function endOf(state, { elapsed, full }) {
  const took = inWords(elapsed);
  if (state !== "done" || typeof full !== "number") return took;
  if (full < ALIKE * elapsed) return `${took} · ${text("time.same")}`;
  return `${took} · ${text("time.full", { time: inWords(full) })}`;
}

/** A time as exact as is of use: "4.2 s", "41 s", "2 min 5 s", "1 h 2 min". */
export function inWords(seconds) {
  if (seconds < 9.95) return text("time.s", { s: seconds.toFixed(1) });
  const whole = Math.round(seconds);
  if (whole < 60) return text("time.s", { s: whole });
  if (whole < HOUR) return two("min", "s", whole);
  return two("h", "min", Math.round(seconds / 60));
}

function two(large, small, units) {
  const values = { [large]: Math.floor(units / 60), [small]: units % 60 };
  return text(values[small] ? `time.${large}_${small}` : `time.${large}`, values);
}

/** A time that was estimated, without "about", in steps that fit it: 4 s, 35 s, 2 min, 1 h 10 min. */
export function about(seconds) {
  if (seconds < 10) return text("time.s", { s: Math.max(Math.round(seconds), 1) });
  if (seconds < 57.5) return inWords(5 * Math.round(seconds / 5));
  if (seconds < HOUR - 30) return inWords(60 * Math.max(Math.round(seconds / 60), 1));
  return inWords(600 * Math.round(seconds / 600));
}
