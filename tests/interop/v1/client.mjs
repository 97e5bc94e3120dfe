// A client of version 1 buys something: node client.mjs fetch|axios URL [URL…], with the payer's key in PAYER_KEY.
// Prints a line of JSON for each URL: status, body, and the decoded receipt.
import axios from "axios";
import { createWalletClient, http } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { baseSepolia } from "viem/chains";
import { withPaymentInterceptor } from "x402-axios";
import { decodeXPaymentResponse, wrapFetchWithPayment } from "x402-fetch";

const [, , tool, ...urls] = process.argv;
const account = privateKeyToAccount(process.env.PAYER_KEY);
// Nothing is asked of the node behind this transport: the payer only signs.
const wallet = createWalletClient({ account, chain: baseSepolia, transport: http("http://127.0.0.1:1") });

async function byFetch(url) {
  const response = await wrapFetchWithPayment(fetch, wallet)(url);
  return [response.status, await response.text(), response.headers.get("x-payment-response")];
}

async function byAxios(url) {
  const { status, data, headers } = await withPaymentInterceptor(axios.create(), wallet).get(url);
  return [status, data, headers["x-payment-response"]];
}

for (const url of urls) {
  try {
    const [status, body, header] = await { fetch: byFetch, axios: byAxios }[tool](url);
    console.log(JSON.stringify({ status, body, receipt: header && decodeXPaymentResponse(header) }));
  } catch (error) {
    console.log(JSON.stringify({ status: error.response?.status, error: error.message }));
  }
}
