// The official Express server sells something: node server.mjs FACILITATOR_URL PAY_TO.
// Prints its port, then serves until it is stopped. The facilitator's key, if it wants one, is in FACILITATOR_KEY.
import { HTTPFacilitatorClient } from "@x402/core/server";
import { ExactEvmScheme } from "@x402/evm/exact/server";
import { paymentMiddleware, x402ResourceServer } from "@x402/express";
import express from "express";

const [, , url, payTo] = process.argv;
const key = process.env.FACILITATOR_KEY;
const authorized = { Authorization: `Bearer ${key}` };
const createAuthHeaders = async () => ({ verify: authorized, settle: authorized, supported: authorized });
const facilitator = new HTTPFacilitatorClient({ url, ...(key && { createAuthHeaders }) });
const server = new x402ResourceServer(facilitator).register("eip155:84532", new ExactEvmScheme());

const accepts = { scheme: "exact", network: "eip155:84532", price: "$0.01", payTo };
const app = express();
app.use(
  paymentMiddleware(
    {
      "GET /goods": { accepts, description: "Goods", mimeType: "application/json" },
      "GET /upfront": { accepts: { ...accepts, extra: { paymentFlow: "upfront" } } },
      "GET /broken": { accepts },
    },
    server,
  ),
);
app.get("/goods", (request, response) => response.json({ goods: true }));
app.get("/upfront", (request, response) => response.json({ goods: "upfront" }));
app.get("/broken", (request, response) => response.status(500).json({ goods: false }));
const listening = app.listen(0, "127.0.0.1", () => console.log(listening.address().port));
