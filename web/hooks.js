// Hooks of nodes and widgets belong to everybody: what stands there already is called too, and its answer counts.

/** Let `work` run before what `target[name]` does; both get the call's `this` and arguments. */
export function before(target, name, work) {
  const there = target[name];
  target[name] = function (...args) {
    work.apply(this, args);
    return there?.apply(this, args);
  };
}

/** Let `work` run after what `target[name]` does; both get the call's `this` and arguments. */
export function after(target, name, work) {
  const there = target[name];
  target[name] = function (...args) {
    const answer = there?.apply(this, args);
    work.apply(this, args);
    return answer;
  };
}
