// node offline.mjs FOLDER: verifies what it is told to on standard input, as common/src/lib.rs says, against a chain inside
// the process on which every payer is rich and has no code, and every transfer succeeds.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { custom, toFunctionSelector } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { facilitatorOn } from "./facilitator.mjs";

const TOKEN = "0x036cbd53842c5426634e7929541ec2318f3dcf7e";
const BALANCE_OF = toFunctionSelector("balanceOf(address)");
const TRANSFER = [
  "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)",
  "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)",
].map(toFunctionSelector);

let calls = 0;

// Whatever else is asked is an error, so that nothing is measured that did not happen.
async function answer({ method, params }) {
  calls += 1;
  if (method === "eth_chainId") return "0x14a34";
  if (method === "eth_getCode") return params[0].toLowerCase() === TOKEN ? "0x60806040" : "0x";
  if (method === "eth_call") {
    const selector = params[0].data.slice(0, 10);
    if (selector === BALANCE_OF) return `0x${"e8d4a51000".padStart(64, "0")}`;
    if (TRANSFER.includes(selector)) return "0x";
  }
  throw new Error(`this chain does not know ${method} ${JSON.stringify(params)}`);
}

const [, , folder] = process.argv;
const account = privateKeyToAccount(`0x${"1".padStart(64, "0")}`);
const facilitator = facilitatorOn(custom({ request: answer }), account);
const sets = new Map();

function take(name, count) {
  if (!sets.has(name)) {
    const bodies = readFileSync(`${folder}/${name}.jsonl`, "utf8").trimEnd().split("\n");
    sets.set(name, { bodies, next: 0 });
  }
  const set = sets.get(name);
  if (set.next + count > set.bodies.length) set.next = 0;
  set.next += count;
  return set.bodies.slice(set.next - count, set.next);
}

for await (const line of createInterface({ input: process.stdin })) {
  const [name, count] = line.split(" ");
  const bodies = take(name, Number(count));
  const before = calls;
  let good = 0;
  const started = process.hrtime.bigint();
  for (const body of bodies) {
    const { paymentPayload, paymentRequirements } = JSON.parse(body);
    const verdict = await facilitator.verify(paymentPayload, paymentRequirements);
    if (verdict.isValid) good += 1;
  }
  const nanos = process.hrtime.bigint() - started;
  console.log(`${nanos} ${good} ${calls - before}`);
}
