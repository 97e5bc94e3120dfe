// A local Solana cluster of one node: Solana's own virtual machine with the programs of mainnet (SPL Token, Token-2022,
// Memo, address lookup tables), which comes compiled from npm (litesvm), behind the part of the JSON-RPC interface that
// payments need. Blocks, blockhashes that die, commitments and the memory of what was processed are kept here.
//
//   node solana.js PORT SLOT_MILLISECONDS GENESIS_HASH    prints `ready PORT`; ends when its standard input does
"use strict";

const crypto = require("node:crypto");
const http = require("node:http");
const path = require("node:path");
// The binding itself: the package's own face takes the types of @solana/kit.
const { LiteSvm, Account } = require(path.join(path.dirname(require.resolve("litesvm")), "internal.js"));

const BLOCKHASH_SLOTS = 150n; // MAX_PROCESSING_AGE
const FINALIZED_SLOTS = 31n; // MAX_LOCKOUT_HISTORY
const PACKET = 1232;
const TOKEN_PROGRAMS = ["TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA", "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb"];

// The runtime's errors in the order of the binding's numbers.
const TRANSACTION_ERRORS =
  "AccountInUse AccountLoadedTwice AccountNotFound ProgramAccountNotFound InsufficientFundsForFee InvalidAccountForFee AlreadyProcessed BlockhashNotFound CallChainTooDeep MissingSignatureForFee InvalidAccountIndex SignatureFailure InvalidProgramForExecution SanitizeFailure ClusterMaintenance AccountBorrowOutstanding WouldExceedMaxBlockCostLimit UnsupportedVersion InvalidWritableAccount WouldExceedMaxAccountCostLimit WouldExceedAccountDataBlockLimit TooManyAccountLocks AddressLookupTableNotFound InvalidAddressLookupTableOwner InvalidAddressLookupTableData InvalidAddressLookupTableIndex InvalidRentPayingAccount WouldExceedMaxVoteCostLimit WouldExceedAccountDataTotalLimit MaxLoadedAccountsDataSizeExceeded ResanitizationNeeded InvalidLoadedAccountsDataSizeLimit UnbalancedTransaction ProgramCacheHitMaxLimit CommitCancelled".split(" ");
const INSTRUCTION_ERRORS =
  "GenericError InvalidArgument InvalidInstructionData InvalidAccountData AccountDataTooSmall InsufficientFunds IncorrectProgramId MissingRequiredSignature AccountAlreadyInitialized UninitializedAccount UnbalancedInstruction ModifiedProgramId ExternalAccountLamportSpend ExternalAccountDataModified ReadonlyLamportChange ReadonlyDataModified DuplicateAccountIndex ExecutableModified RentEpochModified NotEnoughAccountKeys AccountDataSizeChanged AccountNotExecutable AccountBorrowFailed AccountBorrowOutstanding DuplicateAccountOutOfSync InvalidError ExecutableDataModified ExecutableLamportChange ExecutableAccountNotRentExempt UnsupportedProgramId CallDepth MissingAccount ReentrancyNotAllowed MaxSeedLengthExceeded InvalidSeeds InvalidRealloc ComputationalBudgetExceeded PrivilegeEscalation ProgramEnvironmentSetupFailure ProgramFailedToComplete ProgramFailedToCompile Immutable IncorrectAuthority AccountNotRentExempt InvalidAccountOwner ArithmeticOverflow UnsupportedSysvar IllegalOwner MaxAccountsDataAllocationsExceeded MaxAccountsExceeded MaxInstructionTraceLengthExceeded BuiltinProgramsMustConsumeComputeUnits BorshIoError".split(" ");

class RpcError extends Error {
  constructor(code, message, data) {
    super(message);
    Object.assign(this, { code, data });
  }
}

// ---- encodings ------------------------------------------------------------------------------------------------------

const LETTERS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

function base58(bytes) {
  let number = BigInt("0x0" + Buffer.from(bytes).toString("hex"));
  let text = "";
  for (; number > 0n; number /= 58n) text = LETTERS[Number(number % 58n)] + text;
  for (const byte of bytes) {
    if (byte !== 0) break;
    text = "1" + text;
  }
  return text;
}

function unbase58(text, length) {
  let number = 0n;
  for (const letter of text) {
    const digit = LETTERS.indexOf(letter);
    if (digit < 0) throw new RpcError(-32602, "Invalid param: Invalid");
    number = number * 58n + BigInt(digit);
  }
  const hex = number.toString(16);
  const bytes = Buffer.from(hex.padStart(hex.length + (hex.length % 2), "0"), "hex");
  if (length === undefined) return bytes;
  if (bytes.length > length) throw new RpcError(-32602, "Invalid param: WrongSize");
  return Buffer.concat([Buffer.alloc(length - bytes.length), bytes]);
}

// As much of a transaction as a node looks at before it runs it.
function decode(bytes) {
  let at = 0;
  const byte = () => {
    if (at >= bytes.length) throw new RpcError(-32602, "failed to deserialize solana_transaction::versioned::VersionedTransaction");
    return bytes[at++];
  };
  const short = () => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const next = byte();
      value |= (next & 0x7f) << shift;
      if (next < 0x80) return value;
    }
  };
  const take = (count) => Array.from({ length: count }, byte);
  const signatures = Array.from({ length: short() }, () => Buffer.from(take(64)));
  const message = bytes.subarray(at);
  if (bytes[at] >= 0x80 && byte() !== 0x80) throw new RpcError(-32602, "unsupported transaction version");
  const [signers] = take(3);
  const keys = Array.from({ length: short() }, () => Buffer.from(take(32)));
  const blockhash = base58(take(32));
  return { bytes, message, signatures, signers, keys, blockhash };
}

function read(text, encoding) {
  const bytes = encoding === "base64" ? Buffer.from(text, "base64") : unbase58(text);
  if (bytes.length > PACKET) throw new RpcError(-32602, `base64 encoded too large: ${bytes.length} bytes`);
  return decode(bytes);
}

// ---- the chain ------------------------------------------------------------------------------------------------------

const svm = new LiteSvm();
svm.setBlockhashCheck(false);
svm.setTransactionHistory(0n);

let slot = 1n;
let latest;
let waiting = new Map();
const blockhashes = new Map();
const processed = new Map();
const messages = new Set();

const context = () => ({ slot: Number(slot), apiVersion: "4.2.2" });
const commitment = (options) => options?.commitment ?? "finalized";
const slotAt = (level) => (level === "finalized" ? (slot > FINALIZED_SLOTS ? slot - FINALIZED_SLOTS : 0n) : slot);
const isAlive = (blockhash) => blockhashes.has(blockhash) && slot - blockhashes.get(blockhash) <= BLOCKHASH_SLOTS;

function block() {
  slot += 1n;
  svm.warpToSlot(slot);
  const clock = svm.getClock();
  clock.unixTimestamp = BigInt(Math.floor(Date.now() / 1000));
  svm.setClock(clock);
  latest = base58(crypto.randomBytes(32));
  blockhashes.set(latest, slot);
  for (const [hash, of] of blockhashes) if (slot - of > 2n * BLOCKHASH_SLOTS) blockhashes.delete(hash);
  const batch = waiting;
  waiting = new Map();
  for (const transaction of batch.values()) include(transaction);
}

function include(transaction) {
  const key = transaction.message.toString("base64");
  if (messages.has(key) || !isAlive(transaction.blockhash)) return;
  const before = tokenBalances(transaction);
  svm.setSigverify(true);
  const result = svm.sendVersionedTransaction(transaction.bytes);
  const err = errorOf(result);
  // What fails before it runs is in no block.
  if (typeof err === "string") return;
  messages.add(key);
  const meta = err === null ? result : result.meta();
  processed.set(base58(transaction.signatures[0]), {
    slot,
    err,
    transaction,
    meta: {
      err,
      status: err === null ? { Ok: null } : { Err: err },
      logMessages: meta.logs(),
      innerInstructions: inner(meta),
      preTokenBalances: before,
      postTokenBalances: tokenBalances(transaction),
      computeUnitsConsumed: Number(meta.computeUnitsConsumed()),
      loadedAddresses: { writable: [], readonly: [] },
    },
  });
}

function errorOf(result) {
  if (typeof result.err !== "function") return null;
  const err = result.err();
  if (typeof err === "number") return TRANSACTION_ERRORS[err];
  if (err.accountIndex !== undefined) return { InsufficientFundsForRent: { account_index: err.accountIndex } };
  if (typeof err.err !== "function") return { DuplicateInstruction: err.index };
  const of = err.err();
  const name = typeof of === "number" ? INSTRUCTION_ERRORS[of] : of.code !== undefined ? { Custom: of.code } : "BorshIoError";
  return { InstructionError: [err.index, name] };
}

function inner(meta) {
  const call = (found) => {
    const instruction = found.instruction();
    return {
      programIdIndex: instruction.programIdIndex(),
      accounts: [...instruction.accounts()],
      data: base58(instruction.data()),
      stackHeight: found.stackHeight(),
    };
  };
  const all = meta.innerInstructions().map((calls, index) => ({ index, instructions: calls.map(call) }));
  return all.filter((found) => found.instructions.length > 0);
}

function tokenBalances(transaction) {
  const balances = [];
  transaction.keys.forEach((key, accountIndex) => {
    const account = svm.getAccount(key);
    if (!account) return;
    const programId = base58(account.owner());
    const data = Buffer.from(account.data());
    const isAccount = data.length === 165 || (data.length > 165 && data[165] === 2);
    if (!TOKEN_PROGRAMS.includes(programId) || !isAccount) return;
    const mint = svm.getAccount(data.subarray(0, 32));
    const decimals = mint ? Buffer.from(mint.data())[44] : 0;
    const amount = data.readBigUInt64LE(64).toString();
    balances.push({
      accountIndex,
      mint: base58(data.subarray(0, 32)),
      owner: base58(data.subarray(32, 64)),
      programId,
      uiTokenAmount: { amount, decimals, uiAmount: Number(amount) / 10 ** decimals, uiAmountString: String(Number(amount) / 10 ** decimals) },
    });
  });
  return balances;
}

// ---- the interface --------------------------------------------------------------------------------------------------

function accountJson(key, options) {
  const account = svm.getAccount(unbase58(key, 32));
  if (!account || (account.lamports() === 0n && account.data().length === 0)) return null;
  const data = Buffer.from(account.data());
  const asText = options?.encoding === "base58" ? [base58(data), "base58"] : [data.toString("base64"), "base64"];
  return {
    lamports: Number(account.lamports()),
    data: asText,
    owner: base58(account.owner()),
    executable: account.executable(),
    rentEpoch: 18446744073709552000,
    space: data.length,
  };
}

function statusOf(signature) {
  const found = processed.get(signature);
  if (!found) return null;
  const depth = slot - found.slot;
  const isFinal = depth >= FINALIZED_SLOTS;
  return {
    slot: Number(found.slot),
    confirmations: isFinal ? null : Number(depth),
    err: found.err,
    status: found.meta.status,
    confirmationStatus: isFinal ? "finalized" : "confirmed",
  };
}

function simulate(transaction, options) {
  const fails = (err) => ({ err, logs: [], accounts: null, unitsConsumed: 0, returnData: null, innerInstructions: null });
  if (!options?.replaceRecentBlockhash && !isAlive(transaction.blockhash)) return fails("BlockhashNotFound");
  if (messages.has(transaction.message.toString("base64"))) return fails("AlreadyProcessed");
  svm.setSigverify(Boolean(options?.sigVerify));
  const result = svm.simulateVersionedTransaction(transaction.bytes);
  const err = errorOf(result);
  const meta = result.meta();
  return {
    err,
    logs: meta.logs(),
    accounts: null,
    unitsConsumed: Number(meta.computeUnitsConsumed()),
    returnData: null,
    innerInstructions: options?.innerInstructions ? inner(meta) : null,
  };
}

function send(transaction, options) {
  if (transaction.signatures.length !== transaction.signers) throw new RpcError(-32602, "invalid transaction: index out of bounds");
  if (messages.has(transaction.message.toString("base64"))) return base58(transaction.signatures[0]);
  if (!options?.skipPreflight) {
    const { err, logs } = simulate(transaction, { sigVerify: true });
    if (err !== null) throw new RpcError(-32002, `Transaction simulation failed: ${JSON.stringify(err)}`, { err, logs });
  }
  waiting.set(base58(transaction.signatures[0]), transaction);
  return base58(transaction.signatures[0]);
}

const methods = {
  getGenesisHash: () => genesisHash,
  getHealth: () => "ok",
  getVersion: () => ({ "solana-core": "4.2.2", "feature-set": 0 }),
  getSlot: ([options]) => Number(slotAt(commitment(options))),
  getBlockHeight: ([options]) => Number(slotAt(commitment(options))),
  getEpochInfo: ([options]) => {
    const at = Number(slotAt(commitment(options)));
    return { absoluteSlot: at, blockHeight: at, epoch: 0, slotIndex: at, slotsInEpoch: 432000, transactionCount: processed.size };
  },
  getLatestBlockhash: () => ({ context: context(), value: { blockhash: latest, lastValidBlockHeight: Number(slot + BLOCKHASH_SLOTS) } }),
  isBlockhashValid: ([hash]) => ({ context: context(), value: isAlive(hash) }),
  getBalance: ([key]) => ({ context: context(), value: Number(svm.getBalance(unbase58(key, 32)) ?? 0n) }),
  getAccountInfo: ([key, options]) => ({ context: context(), value: accountJson(key, options) }),
  getMultipleAccounts: ([keys, options]) => {
    if (keys.length > 100) throw new RpcError(-32602, "Too many inputs provided; max 100");
    return { context: context(), value: keys.map((key) => accountJson(key, options)) };
  },
  getTokenAccountBalance: ([key]) => {
    const [balance] = tokenBalances({ keys: [unbase58(key, 32)] });
    if (!balance) throw new RpcError(-32602, "Invalid param: could not find account");
    return { context: context(), value: balance.uiTokenAmount };
  },
  getMinimumBalanceForRentExemption: ([length]) => Number(svm.minimumBalanceForRentExemption(BigInt(length))),
  getRecentPrioritizationFees: () => [],
  simulateTransaction: ([text, options]) => ({ context: context(), value: simulate(read(text, options?.encoding), options) }),
  sendTransaction: ([text, options]) => send(read(text, options?.encoding), options),
  getSignatureStatuses: ([signatures]) => {
    if (signatures.length > 256) throw new RpcError(-32602, "Too many inputs provided; max 256");
    return { context: context(), value: signatures.map(statusOf) };
  },
  getTransaction: ([signature]) => {
    const found = processed.get(signature);
    if (!found) return null;
    const version = found.transaction.message[0] >= 0x80 ? 0 : "legacy";
    return { slot: Number(found.slot), blockTime: null, version, meta: found.meta, transaction: [found.transaction.bytes.toString("base64"), "base64"] };
  },
  requestAirdrop: ([key, lamports]) => {
    svm.airdrop(unbase58(key, 32), BigInt(lamports));
    return base58(crypto.randomBytes(64));
  },
  // What no real node has: to set the stage.
  devnet_setAccount: ([key, { lamports, owner, data }]) => {
    const bytes = Buffer.from(data, "base64");
    const enough = lamports ?? svm.minimumBalanceForRentExemption(BigInt(bytes.length));
    svm.setAccount(unbase58(key, 32), new Account(BigInt(enough), bytes, unbase58(owner, 32), false, 0n));
    return true;
  },
  devnet_mine: ([count]) => {
    for (let at = 0; at < (count ?? 1); at += 1) block();
    return Number(slot);
  },
  devnet_setSlotTime: ([milliseconds]) => {
    clearInterval(clock);
    if (milliseconds > 0) clock = setInterval(block, milliseconds);
    return true;
  },
};

function answer({ id, method, params }) {
  try {
    if (!Object.hasOwn(methods, method)) throw new RpcError(-32601, "Method not found");
    return { jsonrpc: "2.0", id, result: methods[method](params ?? []) };
  } catch (error) {
    return { jsonrpc: "2.0", id, error: { code: error.code ?? -32603, message: error.message, data: error.data } };
  }
}

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    let body;
    try {
      const asked = JSON.parse(Buffer.concat(chunks));
      body = Array.isArray(asked) ? asked.map(answer) : answer(asked);
    } catch {
      body = { jsonrpc: "2.0", id: null, error: { code: -32700, message: "Parse error" } };
    }
    response.setHeader("content-type", "application/json");
    response.setHeader("access-control-allow-origin", "*");
    response.end(JSON.stringify(body));
  });
});

let clock;
const [port, slotTime] = process.argv.slice(2, 4).map(Number);
const genesisHash = process.argv[4];
for (let at = 0; at < 40; at += 1) block();
methods.devnet_setSlotTime([slotTime]);
server.listen(port, "127.0.0.1", () => console.log(`ready ${server.address().port}`));
// Whoever started it need not live to stop it.
process.stdin.on("end", () => process.exit(0)).resume();
