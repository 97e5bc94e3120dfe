// The official facilitator for channels: node facilitator.mjs RPC_URL, with its key in FACILITATOR_SIGNER. Prints its port,
// then serves until it is stopped.
import { x402Facilitator } from "@x402/core/facilitator";
import { toFacilitatorEvmSigner } from "@x402/evm";
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/facilitator";
import express from "express";
import { createWalletClient, http, publicActions } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { baseSepolia } from "viem/chains";

const account = privateKeyToAccount(process.env.FACILITATOR_SIGNER);
const transport = http(process.argv[2]);
const client = createWalletClient({ account, chain: baseSepolia, transport }).extend(publicActions);
const signer = toFacilitatorEvmSigner({
  address: account.address,
  getCode: (call) => client.getCode(call),
  readContract: (call) => client.readContract(call),
  verifyTypedData: (call) => client.verifyTypedData(call),
  writeContract: (call) => client.writeContract(call),
  sendTransaction: (call) => client.sendTransaction(call),
  waitForTransactionReceipt: (call) => client.waitForTransactionReceipt(call),
});
const facilitator = new x402Facilitator().register("eip155:84532", new BatchSettlementEvmScheme(signer));

const app = express().use(express.json({ limit: "100kb" }));
const answer = (ask) => async (request, response) => {
  const { paymentPayload, paymentRequirements } = request.body;
  try {
    response.json(await ask(paymentPayload, paymentRequirements));
  } catch (error) {
    response.status(500).json({ error: error.message });
  }
};
app.post("/verify", answer((payload, requirements) => facilitator.verify(payload, requirements)));
app.post("/settle", answer((payload, requirements) => facilitator.settle(payload, requirements)));
app.get("/supported", (request, response) => response.json(facilitator.getSupported()));
const listening = app.listen(0, "127.0.0.1", () => console.log(listening.address().port));
