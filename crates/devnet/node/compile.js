// Compiles a Solidity or Yul file and prints the init code of each contract in it: node compile.js FILE
// The settings are part of the result: with others the bytes differ.
const fs = require("fs");
const solc = require("solc");

const [, , path] = process.argv;
const input = {
  language: path.endsWith(".yul") ? "Yul" : "Solidity",
  sources: { file: { content: fs.readFileSync(path, "utf8") } },
  settings: {
    // Paris has no PUSH0, which some chains do not know.
    evmVersion: "paris",
    optimizer: { enabled: true, runs: 1000000 },
    outputSelection: { "*": { "*": ["evm.bytecode.object"] } },
  },
};
const output = JSON.parse(solc.compile(JSON.stringify(input)));
for (const error of output.errors ?? []) console.error(error.formattedMessage);
const contracts = output.contracts?.file;
if (!contracts) process.exit(1);
const codes = Object.entries(contracts).map(([name, contract]) => [name, contract.evm.bytecode.object]);
console.log(JSON.stringify(Object.fromEntries(codes)));
