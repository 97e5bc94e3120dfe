// The official Hono server sells something: node hono.mjs FACILITATOR_URL NETWORK PAY_TO, with the facilitator's key in
// FACILITATOR_KEY. Prints its port, then serves until it is stopped.
import { serve } from "@hono/node-server";
import { HTTPFacilitatorClient } from "@x402/core/server";
import { ExactEvmScheme } from "@x402/evm/exact/server";
import { paymentMiddleware, x402ResourceServer } from "@x402/hono";
import { Hono } from "hono";

const [, , url, network, payTo] = process.argv;
const authorized = { Authorization: `Bearer ${process.env.FACILITATOR_KEY}` };
const createAuthHeaders = async () => ({ verify: authorized, settle: authorized, supported: authorized });
const facilitator = new HTTPFacilitatorClient({ url, createAuthHeaders });
const server = new x402ResourceServer(facilitator).register(network, new ExactEvmScheme());
const accepts = { scheme: "exact", network, price: "$0.01", payTo };

const app = new Hono();
app.use(paymentMiddleware({ "GET /goods": { accepts } }, server));
app.get("/goods", (context) => context.json({ goods: true }));
serve({ fetch: app.fetch, port: 0, hostname: "127.0.0.1" }, ({ port }) => console.log(port));
