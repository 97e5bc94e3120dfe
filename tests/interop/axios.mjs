// The official axios wrapper buys something: node axios.mjs URL [URL…], with the payer's key in PAYER_KEY.
// Prints a line of JSON for each URL: status, body, and the decoded receipt.
import { decodePaymentResponseHeader } from "@x402/core/http";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { wrapAxiosWithPayment, x402Client } from "@x402/axios";
import axios from "axios";
import { privateKeyToAccount } from "viem/accounts";

const client = new x402Client();
client.register("eip155:*", new ExactEvmScheme(privateKeyToAccount(process.env.PAYER_KEY)));
const paying = wrapAxiosWithPayment(axios.create(), client);

for (const url of process.argv.slice(2)) {
  try {
    const { status, data, headers } = await paying.get(url);
    const receipt = decodePaymentResponseHeader(headers["payment-response"]);
    console.log(JSON.stringify({ status, body: data, receipt }));
  } catch (error) {
    console.log(JSON.stringify({ status: error.response?.status, error: error.message }));
  }
}
