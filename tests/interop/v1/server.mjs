// A server of version 1 sells something: node server.mjs express|hono FACILITATOR_URL NETWORK PAY_TO, with the
// facilitator's key in FACILITATOR_KEY. Prints its port, then serves until it is stopped.
import { serve } from "@hono/node-server";
import express from "express";
import { Hono } from "hono";
import { paymentMiddleware as expressPayment } from "x402-express";
import { paymentMiddleware as honoPayment } from "x402-hono";

const [, , tool, url, network, payTo] = process.argv;
const authorized = { Authorization: `Bearer ${process.env.FACILITATOR_KEY}` };
const createAuthHeaders = async () => ({ verify: authorized, settle: authorized, supported: authorized });
const facilitator = { url, createAuthHeaders };
const routes = { "/goods": { price: "$0.01", network, config: { description: "Goods" } } };

if (tool === "express") {
  const app = express();
  app.use(expressPayment(payTo, routes, facilitator));
  app.get("/goods", (request, response) => response.json({ goods: true }));
  const listening = app.listen(0, "127.0.0.1", () => console.log(listening.address().port));
} else {
  const app = new Hono();
  app.use(honoPayment(payTo, routes, facilitator));
  app.get("/goods", (context) => context.json({ goods: true }));
  serve({ fetch: app.fetch, port: 0, hostname: "127.0.0.1" }, ({ port }) => console.log(port));
}
