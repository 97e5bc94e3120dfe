// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// A smart wallet: it makes any calls that its owner signs, with the signature of the owner's vault, an address that no key has.
// The vault's seeds are "vault" and the owner's key.
//
// Accounts: the owner, who signs, then whatever the calls need, and the programs they call.
//
// Instruction data:
//   u8   the vault's bump
//   u8   the switch: the index of an account which keeps everything from happening, without a failure, while the first byte of
//        its data is not 0; 255 for none
//   then calls, to the end of the data:
//     u8   the index of the account that is the program
//     u8   how many accounts the call has, and for each:
//       u8   its index
//       u8   1 for writable, and 2 for signer
//     u8   how long the data is, and the data
//
// A call that fails ends the transaction. What a call is made of (the structures of sol_invoke_signed_c) is laid out in the heap, at
// fixed places.

.globl entrypoint

// The heap. Indexes are bytes, so that there are at most 256 of anything: a SolAccountInfo of 56 bytes for each account, ...
.equ INFOS, 0x300000000
.equ INFO, 56
// ... a SolAccountMeta of 16 bytes for each account of a call, ...
.equ METAS, 0x300004000
// ... a SolInstruction of 40 bytes, ...
.equ INSTRUCTION, 0x300005000
// ... and SolSignerSeeds, 16 bytes, with its three seeds after it, 16 bytes each.
.equ SIGNER, 0x300006000
.equ SEEDS, 0x300006010

// How far the input leaves an account room to grow.
.equ GROWTH, 10240

// Who refuses says so with this error.
.equ NOT_THE_OWNER, 1

entrypoint:
  // r6 walks through the input, r7 through the infos; r8 counts the accounts that are left. The stack keeps their number.
  mov64 r6, r1
  ldxdw r8, [r6+0]
  stxdw [r10-8], r8
  add64 r6, 8
  lddw r7, INFOS

account:
  jeq r8, 0, accounts_done
  sub64 r8, 1
  ldxb r1, [r6+0]
  jne r1, 255, duplicate
  // An account of its own: flags, 8 bytes with padding; key; owner; lamports; length; data.
  mov64 r1, r6
  add64 r1, 8
  stxdw [r7+0], r1
  add64 r1, 32
  stxdw [r7+32], r1
  add64 r1, 32
  stxdw [r7+8], r1
  ldxdw r2, [r1+8]
  stxdw [r7+16], r2
  add64 r1, 16
  stxdw [r7+24], r1
  ldxb r3, [r6+1]
  stxb [r7+48], r3
  ldxb r3, [r6+2]
  stxb [r7+49], r3
  ldxb r3, [r6+3]
  stxb [r7+50], r3
  // After the data there is room to grow, and the rent epoch at the next multiple of 8.
  add64 r1, r2
  add64 r1, GROWTH
  add64 r1, 7
  and64 r1, -8
  ldxdw r2, [r1+0]
  stxdw [r7+40], r2
  mov64 r6, r1
  add64 r6, 8
  add64 r7, INFO
  ja account

duplicate:
  // The same account as an earlier one, whose index stands here, in 8 bytes: its info is copied.
  add64 r6, 8
  mul64 r1, INFO
  lddw r2, INFOS
  add64 r1, r2
  ldxdw r2, [r1+0]
  stxdw [r7+0], r2
  ldxdw r2, [r1+8]
  stxdw [r7+8], r2
  ldxdw r2, [r1+16]
  stxdw [r7+16], r2
  ldxdw r2, [r1+24]
  stxdw [r7+24], r2
  ldxdw r2, [r1+32]
  stxdw [r7+32], r2
  ldxdw r2, [r1+40]
  stxdw [r7+40], r2
  ldxdw r2, [r1+48]
  stxdw [r7+48], r2
  add64 r7, INFO
  ja account

accounts_done:
  // The instruction data: from r9 to r8. r7 stays at the infos.
  ldxdw r8, [r6+0]
  mov64 r9, r6
  add64 r9, 8
  add64 r8, r9
  lddw r7, INFOS
  ldxb r1, [r7+48]
  jeq r1, 0, refuse

  // Whose signature the wallet adds: "vault", the owner's key, the bump.
  lddw r2, SEEDS
  lddw r1, vault
  stxdw [r2+0], r1
  mov64 r1, 5
  stxdw [r2+8], r1
  ldxdw r1, [r7+0]
  stxdw [r2+16], r1
  mov64 r1, 32
  stxdw [r2+24], r1
  stxdw [r2+32], r9
  mov64 r1, 1
  stxdw [r2+40], r1
  lddw r1, SIGNER
  stxdw [r1+0], r2
  mov64 r2, 3
  stxdw [r1+8], r2

  // The switch.
  ldxb r1, [r9+1]
  add64 r9, 2
  jeq r1, 255, call
  mul64 r1, INFO
  add64 r1, r7
  ldxdw r1, [r1+24]
  ldxb r1, [r1+0]
  jne r1, 0, done

call:
  jge r9, r8, done
  // r2 is the instruction: program, accounts and how many, data and how long.
  lddw r2, INSTRUCTION
  ldxb r1, [r9+0]
  mul64 r1, INFO
  add64 r1, r7
  ldxdw r1, [r1+0]
  stxdw [r2+0], r1
  lddw r3, METAS
  stxdw [r2+8], r3
  ldxb r4, [r9+1]
  stxdw [r2+16], r4
  add64 r9, 2

meta:
  // r3 walks through the metas, r4 counts those that are left.
  jeq r4, 0, metas_done
  sub64 r4, 1
  ldxb r1, [r9+0]
  mul64 r1, INFO
  add64 r1, r7
  ldxdw r1, [r1+0]
  stxdw [r3+0], r1
  ldxb r1, [r9+1]
  mov64 r5, r1
  and64 r5, 1
  stxb [r3+8], r5
  rsh64 r1, 1
  stxb [r3+9], r1
  add64 r3, 16
  add64 r9, 2
  ja meta

metas_done:
  ldxb r1, [r9+0]
  stxdw [r2+32], r1
  add64 r9, 1
  stxdw [r2+24], r9
  add64 r9, r1
  mov64 r1, r2
  mov64 r2, r7
  ldxdw r3, [r10-8]
  lddw r4, SIGNER
  mov64 r5, 1
  call sol_invoke_signed_c
  ja call

done:
  mov64 r0, 0
  exit

refuse:
  mov64 r0, NOT_THE_OWNER
  exit

.rodata
vault: .ascii "vault"
