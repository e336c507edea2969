// Calls web/schedule.js for tests/plan/test_page_mirror.py: cases on standard input, plans on standard output.
// node plans_of_the_page.mjs FILE   where FILE is web/schedule.js

import { readFileSync } from "node:fs";

const code = readFileSync(process.argv[2], "utf8"); // as text: node takes a .js file for no module
const { Schedule, unsharedSteps } = await import(`data:text/javascript,${encodeURIComponent(code)}`);

const answers = JSON.parse(readFileSync(0, "utf8")).map(({ levels, data, calibrated, budgets, moved }) => {
  if (levels) return levels.map(([own, above, atLeast]) => unsharedSteps(own, above, atLeast));
  const schedule = new Schedule(data, calibrated);
  return {
    plans: budgets.map(([mode, value]) => schedule.plan(mode, value)),
    values: moved.map(([mode, saving]) => schedule.valueFor(mode, saving)),
  };
});
process.stdout.write(JSON.stringify(answers));
