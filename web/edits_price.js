// What an edit costs before it runs, asked of the server, and in words.

import { about } from "./run_time.js";
import { text } from "./texts.js";

const AT_ONCE = 2;
const MOST_KEPT = 256;

/** Asks for prices; each that is told is asked for once. */
export class Prices {
  /** @param post  function: {run, edits} -> a promise of {rows, reused, seconds} or {error}; null where nobody answers */
  constructor(post) {
    Object.assign(this, { post, known: new Map(), waiting: [], busy: 0 });
  }

  /** The price of a run with these edits: {rows, reused, seconds}, {error}, or null for one that is not known. */
  of(run, edits) {
    const key = `${run} ${edits}`;
    if (!this.known.has(key)) {
      this.known.set(key, new Promise((done) => this.waiting.push({ run, edits, done })));
      if (this.known.size > MOST_KEPT) this.known.delete(this.known.keys().next().value);
      this.next();
    }
    return this.known.get(key);
  }

  async next() {
    if (this.busy >= AT_ONCE || !this.waiting.length) return;
    const { run, edits, done } = this.waiting.pop(); // what was asked for last is in sight
    this.busy++;
    const answer = await Promise.resolve(this.post({ run, edits })).catch(() => null);
    this.busy--;
    const price = checked(answer);
    if (!price || price.error) this.known.delete(`${run} ${edits}`); // it may be known later
    done(price);
    this.next();
  }
}

function checked(answer) {
  if (typeof answer?.error === "string" && answer.error) return { error: answer.error };
  const { rows, reused, seconds } = answer ?? {};
  if (![rows, reused].every((number) => Number.isFinite(number) && number >= 0)) return null;
  return { rows, reused, seconds: Number.isFinite(seconds) && seconds >= 0 ? seconds : null };
}

/** A price in a few words: "12 rows, about 4 s"; "at most 8 rows" where it is a bound. */
export function priceText(price) {
  if (!price) return text("edits.price_unknown");
  if (price.error) return text("edits.price_refused");
  const count = Math.max(price.rows - price.reused, 0);
  const rows = count === 1 ? text("edits.rows_one") : text("edits.rows", { count });
  const words = price.seconds === null || count === 0 ? rows : text("edits.price", { rows, time: about(price.seconds) });
  if (price.open) return `${words} ${text("edits.price_written")}`;
  return price.bound && count ? text("edits.price_bound", { price: words }) : words;
}

/** All that is known of a price: "12 rows, about 4 s; 84 of 96 reused". */
export function wholePrice(price) {
  if (!price) return text("edits.price_unknown");
  if (price.error) return text("edits.price_error", { error: price.error });
  if (price.bound) return price.rows ? text("edits.price_bound_whole", { price: priceText(price) }) : priceText(price);
  const reused = text("edits.reused_of", { reused: price.reused, rows: price.rows });
  return text("edits.price_whole", { price: priceText(price), reused });
}
