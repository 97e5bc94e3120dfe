// The official client buys something: node client.mjs URL [URL…], with the payer's key in PAYER_KEY.
// Prints a line of JSON for each URL: status, body, and the decoded receipt or terms.
import { decodePaymentRequiredHeader, decodePaymentResponseHeader } from "@x402/core/http";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { privateKeyToAccount } from "viem/accounts";

const account = privateKeyToAccount(process.env.PAYER_KEY);
const client = new x402Client().register("eip155:*", new ExactEvmScheme(account));
const fetchWithPayment = wrapFetchWithPayment(fetch, client);

function decoded(response, name, decode) {
  const value = response.headers.get(name);
  return value === null ? null : decode(value);
}

for (const url of process.argv.slice(2)) {
  try {
    const response = await fetchWithPayment(url);
    const body = await response.text();
    const receipt = decoded(response, "payment-response", decodePaymentResponseHeader);
    const terms = decoded(response, "payment-required", decodePaymentRequiredHeader);
    console.log(JSON.stringify({ status: response.status, body, receipt, terms }));
  } catch (error) {
    console.log(JSON.stringify({ error: error.message }));
  }
}
