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

/** Let `work` run whenever somebody sets `widget.value`, however the page keeps it. */
export function onValue(widget, work) {
  let holder = widget;
  while (holder && !Object.getOwnPropertyDescriptor(holder, "value")) holder = Object.getPrototypeOf(holder);
  const there = holder && Object.getOwnPropertyDescriptor(holder, "value");
  let own = there && "value" in there ? there.value : undefined;
  Object.defineProperty(widget, "value", {
    configurable: true,
    enumerable: true,
    get() {
      return there?.get ? there.get.call(this) : own;
    },
    set(value) {
      if (there?.set) there.set.call(this, value);
      else own = value;
      work();
    },
  });
}
