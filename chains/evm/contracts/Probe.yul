// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Answers many questions about the chain in one `eth_call`, each as if it were the only one.
//
// Never deployed: it runs as the code of an `eth_call` without a recipient, with the steps appended to the code. What
// it would deploy is the answers.
//
//   Steps:    each kind (1) | subject (20) | gas (4) | target (20) | size of data (2) | data
//             kind 0: how long is the code at `subject`?
//             kind 1: call `target`, with at most this much gas.
//             kind 2: the same, if there is code at `subject`.
//             kind 3: the same, if there is none.
//             kind 4: call `target` after another call. The data is the size of the first call's data (2), its data,
//                     and the data of the call to `target`. The first call goes to `subject`, with the same limit,
//                     and its outcome does not matter.
//   Answers:  chain id (32) | block number (32) | block timestamp (32), then for each step
//             status (1) | gas used (4) | size of data (1) | data
//             status 0: reverted.  1: succeeded.  2: not run.  3: did not come back.
//
// Compiled without PUSH0, so that it runs on chains from before Shanghai too.
object "Probe" {
    code {
        // The frame, which runs one step and takes back what it did.
        let initSize := datasize("Frame")
        datacopy(0, dataoffset("Frame"), initSize)
        let frame := create(0, 0, initSize)
        if iszero(frame) { revert(0, 0) }

        let step := 0x20
        let stepsSize := sub(codesize(), datasize("Probe"))
        codecopy(step, datasize("Probe"), stepsSize)
        let stepsEnd := add(step, stepsSize)

        let answers := and(add(stepsEnd, 63), not(31))
        mstore(answers, chainid())
        mstore(add(answers, 32), number())
        mstore(add(answers, 64), timestamp())
        let answer := add(answers, 96)

        for {} lt(step, stepsEnd) {} {
            let size := shr(240, mload(add(step, 45)))
            let next := add(step, add(47, size))
            let kind := byte(0, mload(step))
            let codeSize := extcodesize(shr(96, mload(add(step, 1))))

            let run := 1
            switch kind
            case 2 { run := gt(codeSize, 0) }
            case 3 { run := iszero(codeSize) }

            switch kind
            case 0 { answer := answerWord(answer, codeSize) }
            default {
                switch run
                case 0 { answer := answerNothing(answer, 2) }
                default {
                    pop(call(gas(), frame, 0, step, add(47, size), 0, 0))
                    answer := answerFrame(answer)
                }
            }
            step := next
        }
        return(answers, sub(answer, answers))

        function answerWord(at, word) -> end {
            mstore(at, shl(248, 1))
            mstore8(add(at, 5), 32)
            mstore(add(at, 6), word)
            end := add(at, 38)
        }

        function answerNothing(at, status) -> end {
            mstore(at, shl(248, status))
            end := add(at, 6)
        }

        // Copies what the frame reverted with; a frame that ran out of gas reverts with nothing.
        function answerFrame(at) -> end {
            let returned := returndatasize()
            switch lt(returned, 5)
            case 1 { end := answerNothing(at, 3) }
            default {
                let size := sub(returned, 5)
                returndatacopy(at, 0, 5)
                mstore8(add(at, 5), size)
                returndatacopy(add(at, 6), 5, size)
                end := add(at, add(6, size))
            }
        }
    }

    // Runs one step and always reverts with its answer, so that nothing the step did survives: the next step sees the
    // chain as if this one had never run, and finds everything as cold as it was.
    //
    //   Call data:    the step
    //   Revert data:  succeeded (1) | gas used (4) | the first 160 bytes of what came back
    object "Frame" {
        code {
            datacopy(0, dataoffset("runtime"), datasize("runtime"))
            return(0, datasize("runtime"))
        }
        object "runtime" {
            code {
                let limit := shr(224, calldataload(21))
                let data := 47
                if eq(byte(0, calldataload(0)), 4) {
                    let firstSize := shr(240, calldataload(47))
                    calldatacopy(0, 49, firstSize)
                    pop(call(limit, shr(96, calldataload(1)), 0, 0, firstSize, 0, 0))
                    data := add(49, firstSize)
                }
                let size := sub(calldatasize(), data)
                calldatacopy(0, data, size)

                let before := gas()
                let succeeded := call(limit, shr(96, calldataload(25)), 0, 0, size, 0, 0)
                let used := sub(before, gas())

                // Bounded, so that a hostile target cannot make the copy cost more than its own limit.
                let returned := returndatasize()
                if gt(returned, 160) { returned := 160 }
                mstore(0, or(shl(248, succeeded), shl(216, and(used, 0xffffffff))))
                returndatacopy(5, 0, returned)
                revert(0, add(5, returned))
            }
        }
    }
}
