// A facilitator put together as the packages' documentation shows, on any viem transport.
import { x402Facilitator } from "@x402/core/facilitator";
import { toFacilitatorEvmSigner } from "@x402/evm";
import { registerExactEvmScheme } from "@x402/evm/exact/facilitator";
import { createWalletClient, publicActions } from "viem";
import { baseSepolia } from "viem/chains";

export const NETWORK = "eip155:84532";

export function facilitatorOn(transport, account) {
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
  const facilitator = new x402Facilitator();
  registerExactEvmScheme(facilitator, { signer, networks: NETWORK });
  return facilitator;
}
