// The client of x402-solana buys something: node solana.mjs URL [URL…], with the payer's keypair in SOLANA_PAYER_KEY and a
// node in SOLANA_RPC. Prints a line of JSON for each URL: status, body, and the decoded receipt.
import { getBase58Encoder } from "@solana/kit";
import { Keypair } from "@solana/web3.js";
import { createX402Client } from "x402-solana/client";

const { SOLANA_PAYER_KEY, SOLANA_RPC } = process.env;
const keypair = Keypair.fromSecretKey(Uint8Array.from(getBase58Encoder().encode(SOLANA_PAYER_KEY)));
const signTransaction = async (transaction) => {
  transaction.sign([keypair]);
  return transaction;
};
const wallet = { address: keypair.publicKey.toString(), publicKey: keypair.publicKey, signTransaction };
const client = createX402Client({ wallet, network: "solana-devnet", rpcUrl: SOLANA_RPC, amount: 10_000_000n });

for (const url of process.argv.slice(2)) {
  try {
    const response = await client.fetch(url);
    const header = response.headers.get("payment-response");
    const receipt = header && JSON.parse(Buffer.from(header, "base64"));
    console.log(JSON.stringify({ status: response.status, body: await response.text(), receipt }));
  } catch (error) {
    console.log(JSON.stringify({ error: error.message }));
  }
}
process.exit();
