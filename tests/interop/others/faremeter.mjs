// Faremeter's client buys something: node faremeter.mjs URL [URL…], with the payer's key in PAYER_KEY, or its keypair in
// SOLANA_PAYER_KEY, a node in SOLANA_RPC, and the token in SOLANA_MINT. Prints a line of JSON for each URL: status, body,
// and the decoded receipt.
import { wrap } from "@faremeter/fetch";
import { createPaymentHandler as evmHandler } from "@faremeter/payment-evm/exact";
import { createPaymentHandler as solanaHandler } from "@faremeter/payment-solana/exact";
import { createLocalWallet } from "@faremeter/wallet-evm";
import { createKeyPairSignerFromBytes, getBase58Encoder, partiallySignTransaction } from "@solana/kit";
import { baseSepolia } from "viem/chains";

const { PAYER_KEY, SOLANA_PAYER_KEY, SOLANA_RPC, SOLANA_MINT } = process.env;
const handlers = [];
if (PAYER_KEY) handlers.push(evmHandler(await createLocalWallet(baseSepolia, PAYER_KEY)));
if (SOLANA_PAYER_KEY) {
  const signer = await createKeyPairSignerFromBytes(getBase58Encoder().encode(SOLANA_PAYER_KEY));
  const partiallySign = (transaction) => partiallySignTransaction([signer.keyPair], transaction);
  const wallet = { network: "devnet", publicKey: signer.address, partiallySignTransaction: partiallySign };
  handlers.push(solanaHandler(wallet, SOLANA_MINT, SOLANA_RPC));
}
const paying = wrap(fetch, { handlers, retryCount: 0, returnPaymentFailure: true });

for (const url of process.argv.slice(2)) {
  try {
    const response = await paying(url);
    const header = response.headers.get("payment-response") ?? response.headers.get("x-payment-response");
    const receipt = header && JSON.parse(Buffer.from(header, "base64"));
    console.log(JSON.stringify({ status: response.status, body: await response.text(), receipt }));
  } catch (error) {
    console.log(JSON.stringify({ error: `${error.message} ${error.cause ?? ""}` }));
  }
}
process.exit();
