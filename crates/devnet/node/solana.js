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
const EPOCH_SLOTS = 432000n;
const PACKET = 1232;
const TABLE_META = 56; // LOOKUP_TABLE_META_SIZE: what stands before a lookup table's addresses
const TABLE_COOLDOWN_SLOTS = 512n; // MAX_ENTRIES of SlotHashes: how long a deactivated table can still be used
const NEVER = 2n ** 64n - 1n; // an epoch or a slot that does not come
const TABLE_PROGRAM = "AddressLookupTab1e1111111111111111111111111";
const TOKEN_PROGRAMS = ["TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA", "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb"];
const MEMO_PROGRAMS = ["Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo", "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"];

// The runtime's errors in the order of the binding's numbers.
const TRANSACTION_ERRORS =
  "AccountInUse AccountLoadedTwice AccountNotFound ProgramAccountNotFound InsufficientFundsForFee InvalidAccountForFee AlreadyProcessed BlockhashNotFound CallChainTooDeep MissingSignatureForFee InvalidAccountIndex SignatureFailure InvalidProgramForExecution SanitizeFailure ClusterMaintenance AccountBorrowOutstanding WouldExceedMaxBlockCostLimit UnsupportedVersion InvalidWritableAccount WouldExceedMaxAccountCostLimit WouldExceedAccountDataBlockLimit TooManyAccountLocks AddressLookupTableNotFound InvalidAddressLookupTableOwner InvalidAddressLookupTableData InvalidAddressLookupTableIndex InvalidRentPayingAccount WouldExceedMaxVoteCostLimit WouldExceedAccountDataTotalLimit MaxLoadedAccountsDataSizeExceeded ResanitizationNeeded InvalidLoadedAccountsDataSizeLimit UnbalancedTransaction ProgramCacheHitMaxLimit CommitCancelled".split(" ");
const INSTRUCTION_ERRORS =
  "GenericError InvalidArgument InvalidInstructionData InvalidAccountData AccountDataTooSmall InsufficientFunds IncorrectProgramId MissingRequiredSignature AccountAlreadyInitialized UninitializedAccount UnbalancedInstruction ModifiedProgramId ExternalAccountLamportSpend ExternalAccountDataModified ReadonlyLamportChange ReadonlyDataModified DuplicateAccountIndex ExecutableModified RentEpochModified NotEnoughAccountKeys AccountDataSizeChanged AccountNotExecutable AccountBorrowFailed AccountBorrowOutstanding DuplicateAccountOutOfSync InvalidError ExecutableDataModified ExecutableLamportChange ExecutableAccountNotRentExempt UnsupportedProgramId CallDepth MissingAccount ReentrancyNotAllowed MaxSeedLengthExceeded InvalidSeeds InvalidRealloc ComputationalBudgetExceeded PrivilegeEscalation ProgramEnvironmentSetupFailure ProgramFailedToComplete ProgramFailedToCompile Immutable IncorrectAuthority AccountNotRentExempt InvalidAccountOwner ArithmeticOverflow UnsupportedSysvar IllegalOwner MaxAccountsDataAllocationsExceeded MaxAccountsExceeded MaxInstructionTraceLengthExceeded BuiltinProgramsMustConsumeComputeUnits BorshIoError".split(" ");

// What a node says when a transaction's lookup tables cannot be read.
const LOOKUP_ERRORS = {
  AddressLookupTableNotFound: "Transaction loads an address table account that doesn't exist",
  InvalidAddressLookupTableOwner: "Transaction loads an address table account with an invalid owner",
  InvalidAddressLookupTableData: "Transaction loads an address table account with invalid data",
  InvalidAddressLookupTableIndex: "Transaction address table lookup uses an invalid index",
};

const UNSUPPORTED_VERSION =
  'Transaction version (0) is not supported by the requesting client. Please try the request again with the following configuration parameter: "maxSupportedTransactionVersion": 0';

class RpcError extends Error {
  constructor(code, message, data) {
    super(message);
    Object.assign(this, { code, data });
  }
}

// ---- numbers
// --------------------------------------------------------------------------------------------------------

// Everything that counts is a BigInt, written as the node writes a u64: in full. A Number has 53
// bits, and what is rounded to it can be more than a u64, which strict clients refuse.
function json(value) {
  if (typeof value === "bigint") return value.toString();
  if (Array.isArray(value)) return `[${value.map((one) => json(one ?? null)).join()}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const fields = Object.entries(value).filter(([, one]) => one !== undefined);
  return `{${fields.map(([name, one]) => `${JSON.stringify(name)}:${json(one)}`).join()}}`;
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
  const list = (element) => Array.from({ length: short() }, element);
  const key = () => Buffer.from(take(32));
  const signatures = list(() => Buffer.from(take(64)));
  const message = bytes.subarray(at);
  const isVersioned = bytes[at] >= 0x80;
  if (isVersioned && byte() !== 0x80) throw new RpcError(-32602, "unsupported transaction version");
  const [signers] = take(3);
  const keys = list(key);
  const blockhash = base58(take(32));
  const programs = list(() => {
    const program = byte();
    list(byte); // its accounts
    list(byte); // its data
    return program;
  });
  const lookups = isVersioned ? list(() => ({ table: key(), writable: list(byte), readonly: list(byte) })) : [];
  return { bytes, message, signatures, signers, keys, blockhash, programs, lookups };
}

function read(text, encoding) {
  const bytes = encoding === "base64" ? Buffer.from(text, "base64") : unbase58(text);
  if (bytes.length > PACKET) throw new RpcError(-32602, `base64 encoded too large: ${bytes.length} bytes`);
  const transaction = decode(bytes);
  // A node looks addresses up before anything else, so this is no answer of the simulation but an error of the request.
  const { error } = load(transaction);
  if (error) throw new RpcError(-32602, `invalid transaction: ${LOOKUP_ERRORS[error]}`);
  return transaction;
}

// ---- the chain ------------------------------------------------------------------------------------------------------

const svm = new LiteSvm();
svm.setBlockhashCheck(false);
svm.setTransactionHistory(0n);

let slot = 1n;
let latest;
let waiting = new Map();
let blockTime = 0n;
const blockhashes = new Map();
const processed = new Map();
const messages = new Set();
// When each block was made, in seconds since 1970; those before the first were made at the start.
const started = Math.floor(Date.now() / 1000);
const blockTimes = new Map();

const context = () => ({ slot, apiVersion: "4.2.2" });
const commitment = (options) => options?.commitment ?? "finalized";
const slotAt = (level) => (level === "finalized" ? (slot > FINALIZED_SLOTS ? slot - FINALIZED_SLOTS : 0n) : slot);
// A blockhash that is newer than the block with the slot `at` counts as valid, too. A real node does not know it then.
// Payers ask long after they signed; tests need not wait for that.
const isAlive = (blockhash, at = slot) => blockhashes.has(blockhash) && at - blockhashes.get(blockhash) <= BLOCKHASH_SLOTS;

function block() {
  slot += 1n;
  svm.warpToSlot(slot);
  const clock = svm.getClock();
  blockTime = BigInt(Math.floor(Date.now() / 1000));
  clock.unixTimestamp = blockTime;
  svm.setClock(clock);
  blockTimes.set(slot, Number(clock.unixTimestamp));
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
  const loaded = load(transaction);
  if (loaded.error) return;
  const keys = accountKeys(transaction, loaded);
  const account = (key) => svm.getAccount(key);
  const before = balances(transaction, keys, account);
  svm.setSigverify(true);
  const result = svm.sendVersionedTransaction(transaction.bytes);
  const err = errorOf(result);
  // What fails before it runs is in no block.
  if (typeof err === "string") return;
  messages.add(key);
  const meta = err === null ? result : result.meta();
  const after = balances(transaction, keys, account);
  processed.set(base58(transaction.signatures[0]), {
    slot,
    blockTime,
    err,
    transaction,
    meta: {
      err,
      status: err === null ? { Ok: null } : { Err: err },
      logMessages: meta.logs(),
      ...changes(before, after),
      innerInstructions: inner(meta).map(compiled),
      computeUnitsConsumed: meta.computeUnitsConsumed(),
      rewards: [],
      loadedAddresses: addresses(loaded),
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

// ---- lookup tables --------------------------------------------------------------------------------------------------

// The addresses that a transaction takes from lookup tables, or the error of the runtime that says why it cannot.
function load({ lookups }) {
  const loaded = { writable: [], readonly: [] };
  for (const lookup of lookups) {
    const { error, entries } = table(lookup.table);
    if (error) return { error };
    for (const kind of ["writable", "readonly"]) {
      if (lookup[kind].some((index) => index >= entries.length)) return { error: "InvalidAddressLookupTableIndex" };
      loaded[kind].push(...lookup[kind].map((index) => entries[index]));
    }
  }
  return loaded;
}

// The entries of a table that can be used in this slot: none of those that were added in it.
function table(key) {
  const account = svm.getAccount(key);
  if (!account) return { error: "AddressLookupTableNotFound" };
  if (base58(account.owner()) !== TABLE_PROGRAM) return { error: "InvalidAddressLookupTableOwner" };
  const data = Buffer.from(account.data());
  const isTable = data.length >= TABLE_META && (data.length - TABLE_META) % 32 === 0 && data.readUInt32LE(0) === 1;
  if (!isTable) return { error: "InvalidAddressLookupTableData" };
  const deactivated = data.readBigUInt64LE(4);
  if (deactivated !== NEVER && slot > deactivated + TABLE_COOLDOWN_SLOTS) return { error: "AddressLookupTableNotFound" };
  const hasSettled = slot > data.readBigUInt64LE(12);
  const count = hasSettled ? (data.length - TABLE_META) / 32 : data[20];
  return { entries: Array.from({ length: count }, (_, at) => data.subarray(TABLE_META + 32 * at, TABLE_META + 32 * (at + 1))) };
}

// The accounts in the order in which everything counts them.
const accountKeys = ({ keys }, { writable, readonly }) => [...keys, ...writable, ...readonly];
const addresses = ({ writable, readonly }) => ({ writable: writable.map(base58), readonly: readonly.map(base58) });

// ---- inner instructions ---------------------------------------------------------------------------------------------

function inner(meta) {
  const call = (found) => {
    const instruction = found.instruction();
    return {
      program: instruction.programIdIndex(),
      accounts: [...instruction.accounts()],
      data: Buffer.from(instruction.data()),
      stackHeight: found.stackHeight(),
    };
  };
  const all = meta.innerInstructions().map((calls, index) => ({ index, instructions: calls.map(call) }));
  return all.filter((found) => found.instructions.length > 0);
}

// As getTransaction writes them: indexes, and the data as it is.
const compiled = ({ index, instructions }) => ({
  index,
  instructions: instructions.map(({ program, accounts, data, stackHeight }) => ({
    programIdIndex: program,
    accounts,
    data: base58(data),
    stackHeight,
  })),
});

// As simulateTransaction writes them, whatever the encoding: spelled out where the program is known. A node knows more
// programs than the tokens' and the memos'; theirs are left here as it leaves those that it does not know.
const spelledOut = (names) => ({ index, instructions }) => ({
  index,
  instructions: instructions.map(({ program, accounts, data, stackHeight }) => {
    const programId = names[program];
    const named = accounts.map((at) => names[at]);
    const parsed = parse(programId, named, data);
    return parsed ? { ...parsed, programId, stackHeight } : { programId, accounts: named, data: base58(data), stackHeight };
  }),
});

function parse(programId, accounts, data) {
  if (MEMO_PROGRAMS.includes(programId)) return { program: "spl-memo", parsed: data.toString() };
  const parsed = TOKEN_PROGRAMS.includes(programId) && parseToken(accounts, data);
  return parsed ? { program: "spl-token", parsed } : null;
}

// What follows in an instruction's data: how long both are together, and what is told of it.
const NOTHING = { length: 1, read: () => ({}) };
const AMOUNT = { length: 9, read: (data) => ({ amount: data.readBigUInt64LE(1).toString() }) };
const CHECKED = { length: 10, read: (data) => ({ tokenAmount: uiAmount(data.readBigUInt64LE(1), data[9]) }) };
const WITH_FEE = {
  length: 19,
  read: (data) => ({ tokenAmount: uiAmount(data.readBigUInt64LE(2), data[10]), feeAmount: uiAmount(data.readBigUInt64LE(11), data[10]) }),
};
const AUTHORITY = {
  length: 3,
  read: (data) => ({ authorityType: AUTHORITY_TYPES[data[1]], newAuthority: data[2] === 1 ? base58(data.subarray(3, 35)) : null }),
};
const AUTHORITY_TYPES = ["mintTokens", "freezeAccount", "accountOwner", "closeAccount"];

// Both token programs' instructions that are parsed, by the beginning of their data: the name, the accounts before the authority,
// what the authority is called, and what follows.
const TOKEN_INSTRUCTIONS = {
  "03": ["transfer", ["source", "destination"], "authority", AMOUNT],
  "04": ["approve", ["source", "delegate"], "owner", AMOUNT],
  "05": ["revoke", ["source"], "owner", NOTHING],
  "0600": ["setAuthority", ["mint"], "authority", AUTHORITY],
  "0601": ["setAuthority", ["mint"], "authority", AUTHORITY],
  "0602": ["setAuthority", ["account"], "authority", AUTHORITY],
  "0603": ["setAuthority", ["account"], "authority", AUTHORITY],
  "07": ["mintTo", ["mint", "account"], "mintAuthority", AMOUNT],
  "08": ["burn", ["account", "mint"], "authority", AMOUNT],
  "09": ["closeAccount", ["account", "destination"], "owner", NOTHING],
  "0a": ["freezeAccount", ["account", "mint"], "freezeAuthority", NOTHING],
  "0b": ["thawAccount", ["account", "mint"], "freezeAuthority", NOTHING],
  "0c": ["transferChecked", ["source", "mint", "destination"], "authority", CHECKED],
  "0d": ["approveChecked", ["source", "mint", "delegate"], "owner", CHECKED],
  "0e": ["mintToChecked", ["mint", "account"], "mintAuthority", CHECKED],
  "0f": ["burnChecked", ["account", "mint"], "authority", CHECKED],
  "1a01": ["transferCheckedWithFee", ["source", "mint", "destination"], "authority", WITH_FEE],
};
const BATCH = 255;

function parseToken(accounts, data) {
  if (data[0] === BATCH) return parseBatch(accounts, data);
  const kind = [1, 2].map((length) => TOKEN_INSTRUCTIONS[data.toString("hex", 0, length)]).find(Boolean);
  if (!kind) return null;
  const [type, names, authority, content] = kind;
  if (accounts.length <= names.length || data.length < content.length) return null;
  const info = { ...Object.fromEntries(names.map((name, at) => [name, accounts[at]])), ...content.read(data) };
  const [who, ...signers] = accounts.slice(names.length);
  // An authority with signers after it is a multisignature account.
  if (signers.length === 0) info[authority] = who;
  else Object.assign(info, { ["multisig" + authority[0].toUpperCase() + authority.slice(1)]: who, signers });
  return { type, info };
}

// Several instructions in one, which is told as one: each has a count of accounts, a length, and its data.
function parseBatch(accounts, data) {
  const instructions = [];
  for (let at = 1, first = 0; at < data.length; ) {
    const [count, length] = data.subarray(at, at + 2);
    const one = data.subarray(at + 2, at + 2 + length);
    const parsed = one[0] === BATCH ? null : parseToken(accounts.slice(first, first + count), one);
    if (!parsed) return null;
    instructions.push(parsed);
    at += 2 + length;
    first += count;
  }
  return { type: "batch", info: { instructions } };
}

// ---- balances -------------------------------------------------------------------------------------------------------

// What the accounts of a transaction have, in lamports and in tokens; `account` finds an account.
function balances(transaction, keys, account) {
  const found = keys.map(account);
  const isToken = keys.map((key) => tokenProgram(key) !== undefined);
  const tokens = found.map((one, at) => (isToken[at] || transaction.programs.includes(at) ? null : tokenBalance(one, account)));
  return {
    lamports: found.map((one) => one?.lamports() ?? 0n),
    // A node looks for tokens only where one of their programs is named.
    tokens: isToken.includes(true) ? tokens.flatMap((balance, accountIndex) => (balance ? [{ accountIndex, ...balance }] : [])) : [],
  };
}

// The name of the token program that has this key.
const tokenProgram = (key) => TOKEN_PROGRAMS.find((_, at) => TOKEN_KEYS[at].equals(key));
const TOKEN_KEYS = TOKEN_PROGRAMS.map((name) => unbase58(name, 32));

function tokenBalance(account, find) {
  if (!account) return null;
  const programId = tokenProgram(account.owner());
  if (!programId) return null;
  const data = Buffer.from(account.data());
  const isAccount = data.length === 165 || (data.length > 165 && data[165] === 2);
  if (!isAccount) return null;
  const mint = find(data.subarray(0, 32));
  if (!mint) return null;
  return {
    mint: base58(data.subarray(0, 32)),
    owner: base58(data.subarray(32, 64)),
    programId,
    uiTokenAmount: uiAmount(data.readBigUInt64LE(64), mint.data()[44]),
  };
}

function uiAmount(amount, decimals) {
  const digits = amount.toString().padStart(decimals + 1, "0");
  const point = digits.length - decimals;
  const fraction = digits.slice(point).replace(/0+$/, "");
  const uiAmountString = digits.slice(0, point) + (fraction && `.${fraction}`);
  return { uiAmount: Number(uiAmountString), decimals, amount: amount.toString(), uiAmountString };
}

// The fee is what all of them together have lost: nothing else makes or burns lamports.
function changes(before, after) {
  const sum = (lamports) => lamports.reduce((total, one) => total + one, 0n);
  return {
    fee: sum(before.lamports) - sum(after.lamports),
    preBalances: before.lamports,
    postBalances: after.lamports,
    preTokenBalances: before.tokens,
    postTokenBalances: after.tokens,
  };
}

// ---- the interface --------------------------------------------------------------------------------------------------

function accountJson(key, options) {
  const account = svm.getAccount(unbase58(key, 32));
  if (!account || (account.lamports() === 0n && account.data().length === 0)) return null;
  const whole = Buffer.from(account.data());
  const { offset, length } = options?.dataSlice ?? { offset: 0, length: whole.length };
  const data = whole.subarray(offset, offset + length);
  const asText = options?.encoding === "base58" ? [base58(data), "base58"] : [data.toString("base64"), "base64"];
  return {
    lamports: account.lamports(),
    data: asText,
    owner: base58(account.owner()),
    executable: account.executable(),
    rentEpoch: NEVER,
    space: whole.length,
  };
}

function statusOf(signature) {
  const found = processed.get(signature);
  if (!found) return null;
  const depth = slot - found.slot;
  const isFinal = depth >= FINALIZED_SLOTS;
  return {
    slot: found.slot,
    confirmations: isFinal ? null : depth,
    err: found.err,
    status: found.meta.status,
    confirmationStatus: isFinal ? "finalized" : "confirmed",
  };
}

const NO_CHANGES = { fee: null, preBalances: null, postBalances: null, preTokenBalances: null, postTokenBalances: null };

function simulate(transaction, options) {
  const loaded = load(transaction);
  const result = run(transaction, loaded, options);
  return {
    accounts: null,
    replacementBlockhash: null,
    returnData: null,
    ...NO_CHANGES,
    ...result,
    loadedAddresses: addresses(loaded),
  };
}

function run(transaction, loaded, options) {
  const fails = (err) => ({ err, logs: [], unitsConsumed: 0n, innerInstructions: null });
  if (!options?.replaceRecentBlockhash && !isAlive(transaction.blockhash)) return fails("BlockhashNotFound");
  if (messages.has(transaction.message.toString("base64"))) return fails("AlreadyProcessed");
  svm.setSigverify(Boolean(options?.sigVerify));
  const result = svm.simulateVersionedTransaction(transaction.bytes);
  const keys = accountKeys(transaction, loaded);
  const err = errorOf(result);
  const meta = result.meta();
  return {
    err,
    logs: meta.logs(),
    unitsConsumed: meta.computeUnitsConsumed(),
    innerInstructions: options?.innerInstructions ? inner(meta).map(spelledOut(keys.map(base58))) : null,
    // What fails leaves no accounts to look at. A node tells its fee even so.
    ...(err === null ? simulatedChanges(transaction, keys, result) : {}),
  };
}

function simulatedChanges(transaction, keys, result) {
  const before = (key) => svm.getAccount(key);
  const changed = new Map(result.postAccounts().map((one) => [base58(one.address), one.account()]));
  const after = (key) => changed.get(base58(key)) ?? before(key);
  return changes(balances(transaction, keys, before), balances(transaction, keys, after));
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
  getSlot: ([options]) => slotAt(commitment(options)),
  getBlockHeight: ([options]) => slotAt(commitment(options)),
  getEpochInfo: ([options]) => {
    const at = slotAt(commitment(options));
    return {
      absoluteSlot: at,
      blockHeight: at,
      epoch: at / EPOCH_SLOTS,
      slotIndex: at % EPOCH_SLOTS,
      slotsInEpoch: EPOCH_SLOTS,
      transactionCount: processed.size,
    };
  },
  getLatestBlockhash: () => ({ context: context(), value: { blockhash: latest, lastValidBlockHeight: slot + BLOCKHASH_SLOTS } }),
  isBlockhashValid: ([hash, options]) => {
    const at = slotAt(commitment(options));
    return { context: { ...context(), slot: at }, value: isAlive(hash, at) };
  },
  getBalance: ([key]) => ({ context: context(), value: svm.getBalance(unbase58(key, 32)) ?? 0n }),
  getAccountInfo: ([key, options]) => ({ context: context(), value: accountJson(key, options) }),
  getMultipleAccounts: ([keys, options]) => {
    if (keys.length > 100) throw new RpcError(-32602, "Too many inputs provided; max 100");
    return { context: context(), value: keys.map((key) => accountJson(key, options)) };
  },
  getTokenAccountBalance: ([key]) => {
    const account = (key) => svm.getAccount(key);
    const balance = tokenBalance(account(unbase58(key, 32)), account);
    if (!balance) throw new RpcError(-32602, "Invalid param: could not find account");
    return { context: context(), value: balance.uiTokenAmount };
  },
  getMinimumBalanceForRentExemption: ([length]) => svm.minimumBalanceForRentExemption(BigInt(length)),
  getRecentPrioritizationFees: () => [],
  simulateTransaction: ([text, options]) => ({ context: context(), value: simulate(read(text, options?.encoding), options) }),
  sendTransaction: ([text, options]) => send(read(text, options?.encoding), options),
  getSignatureStatuses: ([signatures]) => {
    if (signatures.length > 256) throw new RpcError(-32602, "Too many inputs provided; max 256");
    return { context: context(), value: signatures.map(statusOf) };
  },
  getFirstAvailableBlock: () => 0,
  getBlocksWithLimit: ([from, limit]) => {
    const count = Math.max(0, Math.min(limit, Number(slot) - from + 1));
    return Array.from({ length: count }, (_, at) => from + at);
  },
  getBlockTime: ([at]) => blockTimes.get(BigInt(at)) ?? started,
  getSignaturesForAddress: ([key, options]) => {
    const final = slotAt(commitment(options));
    const about = ({ transaction, slot }) => slot <= final && transaction.keys.some((one) => base58(one) === key);
    // The newest first, and those before one of them where that is asked.
    const all = [...processed].filter(([, found]) => about(found)).reverse();
    const from = options?.before === undefined ? 0 : all.findIndex(([id]) => id === options.before) + 1;
    const told = ([signature, { slot, meta }]) => ({
      signature,
      slot: Number(slot),
      err: meta.err,
      memo: null,
      blockTime: blockTimes.get(slot) ?? started,
      confirmationStatus: "finalized",
    });
    return all.slice(from, from + (options?.limit ?? 1000)).map(told);
  },
  getTransaction: ([signature, options]) => {
    const found = processed.get(signature);
    if (!found) return null;
    const version = found.transaction.message[0] >= 0x80 ? 0 : "legacy";
    if (version === 0 && options?.maxSupportedTransactionVersion === undefined) throw new RpcError(-32015, UNSUPPORTED_VERSION);
    const encoded = [found.transaction.bytes.toString("base64"), "base64"];
    return { slot: found.slot, blockTime: found.blockTime, version, meta: found.meta, transaction: encoded };
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
  devnet_addProgram: ([key, elf]) => {
    svm.addProgram(unbase58(key, 32), Buffer.from(elf, "base64"));
    return true;
  },
  devnet_mine: ([count]) => {
    for (let at = 0; at < (count ?? 1); at += 1) block();
    return slot;
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
    response.end(json(body));
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
