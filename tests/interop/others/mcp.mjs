// A paid tool of x402-mcp is sold and bought through a facilitator: node mcp.mjs FACILITATOR_URL PAY_TO, with the payer's
// key in PAYER_KEY. Prints a line of JSON: the tool's answer and its receipt.
import { serve } from "@hono/node-server";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { experimental_createMCPClient as createMCPClient } from "ai";
import { privateKeyToAccount } from "viem/accounts";
import { withPayment } from "x402-mcp/client";
import { createPaidMcpHandler } from "x402-mcp/server";
import { z } from "zod";

const [, , url, recipient] = process.argv;
const authorized = { Authorization: `Bearer ${process.env.FACILITATOR_KEY}` };
const createAuthHeaders = async () => ({ verify: authorized, settle: authorized, supported: authorized });
const sell = (server) =>
  server.paidTool("double", "Doubles a number", { price: 0.01 }, { number: z.number() }, {}, async ({ number }) => ({
    content: [{ type: "text", text: String(2 * number) }],
  }));
const paid = { recipient, facilitator: { url, createAuthHeaders }, network: "base-sepolia" };
const handler = createPaidMcpHandler(sell, {}, { basePath: "", ...paid });

serve({ fetch: handler, port: 0, hostname: "127.0.0.1" }, async ({ port }) => {
  const transport = new StreamableHTTPClientTransport(new URL(`http://127.0.0.1:${port}/mcp`));
  const account = privateKeyToAccount(process.env.PAYER_KEY);
  const client = await withPayment(await createMCPClient({ transport }), { account, network: "base-sepolia" });
  const tools = await client.tools();
  const refused = await tools.double.execute({ number: 21 }, {});
  const [paymentRequirements] = JSON.parse(refused.content[0].text).accepts;
  const { paymentAuthorization } = await tools.generatePaymentAuthorization.execute({ paymentRequirements });
  const bought = await tools.double.execute({ number: 21, paymentAuthorization }, {});
  const receipt = bought._meta?.["x402.payment-response"];
  console.log(JSON.stringify({ status: bought.isError ? 402 : 200, body: bought.content[0].text, receipt }));
  process.exit();
});
