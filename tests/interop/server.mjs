// The official Express server sells something: node server.mjs FACILITATOR_URL NETWORK PAY_TO [ASSET [RPC_URL]]. Without an
// asset, the price is in the network's USDC; with a node of Solana, buyers are told a blockhash. Prints its port, then serves until it is stopped. The facilitator's key, if it wants
// one, is in FACILITATOR_KEY.
import { HTTPFacilitatorClient } from "@x402/core/server";
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/server";
import { ExactEvmScheme } from "@x402/evm/exact/server";
import { UptoEvmScheme } from "@x402/evm/upto/server";
import { paymentMiddleware, setSettlementOverrides, x402ResourceServer } from "@x402/express";
import { declareEip2612GasSponsoringExtension } from "@x402/extensions";
import { ExactSvmScheme } from "@x402/svm/exact/server";
import express from "express";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";

const [, , url, network, payTo, asset, rpcUrl] = process.argv;
const key = process.env.FACILITATOR_KEY;
const authorized = { Authorization: `Bearer ${key}` };
const createAuthHeaders = async () => ({ verify: authorized, settle: authorized, supported: authorized });
const facilitator = new HTTPFacilitatorClient({ url, ...(key && { createAuthHeaders }) });
const scheme = network.startsWith("solana:") ? new ExactSvmScheme({ rpcUrl }) : new ExactEvmScheme();
const server = new x402ResourceServer(facilitator).register(network, scheme);
const { kinds } = await facilitator.getSupported();
const sellsUpto = kinds.some((kind) => kind.scheme === "upto");
if (sellsUpto) server.register(network, new UptoEvmScheme());
// Of channels, the server keeps the book and signs claims and refunds.
const sellsChannels = kinds.some((kind) => kind.scheme === "batch-settlement");
const receiverAuthorizerSigner = privateKeyToAccount(generatePrivateKey());
const channels = sellsChannels && new BatchSettlementEvmScheme(payTo, { receiverAuthorizerSigner });
if (sellsChannels) server.register(network, channels);

const price = asset ? { asset, amount: "10000" } : "$0.01";
const accepts = { scheme: "exact", network, price, payTo };
// USDC of Base Sepolia, moved by Permit2.
const permit2 = { name: "USDC", version: "2", assetTransferMethod: "permit2" };
const byPermit2 = { asset: "0x036CbD53842c5426634e7929541eC2318f3dCF7e", amount: "10000", extra: permit2 };
const approves = { extensions: declareEip2612GasSponsoringExtension() };
const app = express();
app.use(
  paymentMiddleware(
    {
      "GET /goods": { accepts, description: "Goods", mimeType: "application/json" },
      "GET /upfront": { accepts: { ...accepts, extra: { paymentFlow: "upfront" } } },
      "GET /broken": { accepts },
      ...(network === "eip155:84532" && {
        "GET /permit2": { accepts: { ...accepts, price: byPermit2 } },
        "GET /approved": { accepts: { ...accepts, price: byPermit2 }, ...approves },
      }),
      ...(sellsChannels && { "GET /channel": { accepts: { ...accepts, scheme: "batch-settlement" } } }),
      ...(sellsUpto && {
        "GET /metered": { accepts: { ...accepts, scheme: "upto" } },
        "GET /approved/metered": { accepts: { ...accepts, scheme: "upto" }, ...approves },
      }),
    },
    server,
  ),
);
app.get("/goods", (request, response) => response.json({ goods: true }));
app.get("/upfront", (request, response) => response.json({ goods: "upfront" }));
app.get("/permit2", (request, response) => response.json({ goods: "permit2" }));
app.get("/approved", (request, response) => response.json({ goods: "approved" }));
app.get(["/metered", "/approved/metered"], (request, response) => {
  setSettlementOverrides(response, { amount: request.query.charge });
  response.json({ goods: "metered" });
});
app.get("/channel", (request, response) => {
  if (request.query.charge) setSettlementOverrides(response, { amount: request.query.charge });
  response.json({ goods: "by voucher" });
});
app.get("/claim", async (request, response) => {
  try {
    response.json(await channels.createChannelManager(facilitator, network).claimAndSettle());
  } catch (error) {
    response.status(500).json({ error: error.message });
  }
});
app.get("/broken", (request, response) => response.status(500).json({ goods: false }));
const listening = app.listen(0, "127.0.0.1", () => console.log(listening.address().port));
