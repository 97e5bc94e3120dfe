// node serve.mjs PORT RPC KEY: the facilitator behind Express.
import express from "express";
import { http } from "viem";
import { nonceManager, privateKeyToAccount } from "viem/accounts";
import { facilitatorOn } from "./facilitator.mjs";

const [, , port, rpc, key] = process.argv;
// Without the nonce manager, settlements at the same time take each other's nonces.
const facilitator = facilitatorOn(http(rpc), privateKeyToAccount(key, { nonceManager }));

const app = express();
app.use(express.json());
app.get("/supported", (request, response) => response.json(facilitator.getSupported()));
for (const act of ["verify", "settle"]) {
  app.post(`/${act}`, async (request, response) => {
    const { paymentPayload, paymentRequirements } = request.body;
    try {
      response.json(await facilitator[act](paymentPayload, paymentRequirements));
    } catch (error) {
      response.status(500).json({ error: error.message });
    }
  });
}
app.listen(Number(port), "127.0.0.1");
