// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Makes many calls in one transaction, each with a gas limit of its own.
//
// Never deployed: it runs as the init code of a transaction without a recipient, with the calls appended to the code,
// and leaves an account without code behind. A call that reverts, or uses up its limit, takes nothing from the others:
// what each may use is fixed when the transaction is signed. (Multicall3 hands every call 63/64 of all gas that is
// left, so one call can burn what all others need.)
//
//   Calls:    gas limit (4) | target (20) | size of data (2) | data
//
// What the calls return is not copied, so none can make the others pay for memory.
//
// Compiled without PUSH0, so that it runs on chains from before Shanghai too.
object "Batch" {
    code {
        let size := sub(codesize(), datasize("Batch"))
        codecopy(0, datasize("Batch"), size)

        for { let item := 0 } lt(item, size) {} {
            let head := mload(item)
            let data := add(item, 26)
            let dataSize := and(shr(48, head), 0xffff)
            pop(call(shr(224, head), shr(96, shl(32, head)), 0, data, dataSize, 0, 0))
            item := add(data, dataSize)
        }
        return(0, 0)
    }
}
