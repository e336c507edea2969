// Steps that the page can undo. Its change tracker is no public part of it: without one nothing is undone, and all else works.

const trackerOf = (app) => app.extensionManager?.workflow?.activeWorkflow?.changeTracker;

/** Let the page save what has changed in the workflow, and undo it. */
export function changed(app) {
  const tracker = trackerOf(app);
  (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
}

/** Change the workflow as a part of the last step: what a person has not done is not undone for itself. */
export function quietly(app, work) {
  changed(app); // what was done before is a step
  work();
  const tracker = trackerOf(app);
  if (!tracker?.activeState || tracker.changeCount || tracker._restoringState) return;
  tracker.activeState = JSON.parse(JSON.stringify((app.rootGraph ?? app.graph).serialize()));
  tracker.updateModified?.();
}
