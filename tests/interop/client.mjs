// The official client buys something: node client.mjs URL [URL…], with the payer's key in PAYER_KEY and perhaps a node in
// EVM_RPC, or its keypair in SOLANA_PAYER_KEY and a node in SOLANA_RPC.
// Prints a line of JSON for each URL: status, body, and the decoded receipt or terms. "refund" before a URL asks the seller
// for what is left of the channel.
import { createKeyPairSignerFromBytes, getBase58Encoder } from "@solana/kit";
import { decodePaymentRequiredHeader, decodePaymentResponseHeader } from "@x402/core/http";
import { AuthCaptureEvmScheme } from "@x402/evm/auth-capture/client";
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/client";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { UptoEvmScheme } from "@x402/evm/upto/client";
import { wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { ExactSvmScheme } from "@x402/svm/exact/client";
import { createPublicClient, http } from "viem";
import { privateKeyToAccount } from "viem/accounts";

const { PAYER_KEY, EVM_RPC, SOLANA_PAYER_KEY, SOLANA_RPC } = process.env;
const client = new x402Client();
let channels;
if (PAYER_KEY) {
  const account = privateKeyToAccount(PAYER_KEY);
  // With a node it signs the approval of Permit2 that is missing.
  const options = EVM_RPC && { rpcUrl: EVM_RPC };
  client.register("eip155:*", new ExactEvmScheme(account, options));
  client.register("eip155:*", new UptoEvmScheme(account, options));
  client.register("eip155:*", new AuthCaptureEvmScheme(account));
  // With a node it recovers a channel whose book it has lost.
  const node = EVM_RPC && createPublicClient({ transport: http(EVM_RPC) });
  const readContract = node && ((call) => node.readContract(call));
  const { address } = account;
  const signTypedData = (message) => account.signTypedData(message);
  channels = new BatchSettlementEvmScheme({ address, signTypedData, readContract });
  client.register("eip155:*", channels);
}
if (SOLANA_PAYER_KEY) {
  const signer = await createKeyPairSignerFromBytes(getBase58Encoder().encode(SOLANA_PAYER_KEY));
  client.register("solana:*", new ExactSvmScheme(signer, { rpcUrl: SOLANA_RPC }));
  // By itself it pays in USDC only; the token of Token-2022 is none.
  client.setSpendControls({ allowedAssets: true });
}
const fetchWithPayment = wrapFetchWithPayment(fetch, client);

function decoded(response, name, decode) {
  const value = response.headers.get(name);
  return value === null ? null : decode(value);
}

const urls = process.argv.slice(2);
while (urls.length > 0) {
  const url = urls.shift();
  try {
    if (url === "refund") {
      console.log(JSON.stringify({ receipt: await channels.refund(urls.shift()) }));
      continue;
    }
    const response = await fetchWithPayment(url);
    const body = await response.text();
    const receipt = decoded(response, "payment-response", decodePaymentResponseHeader);
    const terms = decoded(response, "payment-required", decodePaymentRequiredHeader);
    console.log(JSON.stringify({ status: response.status, body, receipt, terms }));
  } catch (error) {
    console.log(JSON.stringify({ error: error.message }));
  }
}
