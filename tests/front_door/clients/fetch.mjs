// Node's fetch. Reads lines "METHOD PATH KEY BYTES FLAGS" from standard input. Prints the status, a space and the body
// for each.

import { createInterface } from "node:readline";

for await (const line of createInterface({ input: process.stdin })) {
  const [method, path, key, size] = line.split(" ");
  const body = method === "POST" ? Buffer.alloc(Number(size), "x") : undefined;
  try {
    const signal = AbortSignal.timeout(10_000);
    const reply = await fetch(process.env.BASE + path, { method, body, headers: { "X-API-Key": key }, signal });
    console.log(reply.status, await reply.text());
  } catch (error) {
    console.log(String(error), String(error.cause));
  }
}
