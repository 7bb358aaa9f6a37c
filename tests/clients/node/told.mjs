// What every script is given, and how it says what worked: one line of JSON a step, read by test_clients.py.
// The parts of a script between "docs: begin" and "docs: end" are shown in docs/clients.md as they stand here.

export const url = process.env.LLM_OPTIMIZER_URL;
export const key = process.env.LLM_OPTIMIZER_CLIENT_KEY;
// May ask once a minute.
export const limitedKey = process.env.LLM_OPTIMIZER_LIMITED_KEY;

export function worked(step, found = {}) {
  console.log(JSON.stringify({ step, ...found }));
}
