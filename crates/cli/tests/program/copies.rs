//! Copies of a journal, what a chain gives back of a lost one, and the retention of personal data.

use std::collections::BTreeMap;

use quittance_core::Timestamp;
use serde_json::{Value, json};

use super::reconcile::kinds;
use super::*;

/// What was lost with a disk comes back: from an export, and from the chain.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_journal_comes_back_from_a_copy_and_from_the_chain() {
    let place = Place::new().await;
    let from = place.block().await + 1;
    let serving = place.serve().await;
    let copied = payment().await;
    place.settle_request(&serving, &copied).await;
    let (code, copy, log) = output(place.command(&["journal", "export"])).await;
    assert_eq!(code, Some(0), "{log}");
    let later = payment().await;
    place.settle_request(&serving, &later).await;
    serving.stop().await;
    // The node calls a block final that has 64 after it. Each has the next second, so the chain
    // stays within two minutes of this machine's clock.
    let _: Value = place.evm.rpc("anvil_mine", json!(["0x46"])).await.unwrap();
    for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        let _ = std::fs::remove_file(place.folder.path().join(name));
    }

    let file = place.folder.path().join("copy.jsonl");
    std::fs::write(&file, &copy).unwrap();
    let import = || place.command(&["journal", "import", file.to_str().unwrap()]);
    let (code, printed, log) = output(import()).await;
    assert_eq!(code, Some(0), "{printed}{log}");
    let (_, again, _) = output(place.command(&["journal", "export"])).await;
    assert_eq!(again, copy);
    let (_, _, log) = output(import()).await;
    assert!(
        log.starts_with("0 entries added, 0 brought to a later state"),
        "{log}"
    );

    // One payment is missing until the journal is rebuilt.
    let (code, lines) = place.reconcile(from, &[]).await;
    assert_eq!((code, kinds(&lines).len()), (Some(1), 1), "{lines:?}");
    let from_text = from.to_string();
    let rebuild = || place.command(&["journal", "rebuild", "--from", &from_text]);
    let (code, _, log) = output(rebuild()).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("1 settlements rebuilt"), "{log}");
    let (_, _, log) = output(rebuild()).await;
    assert!(log.contains("0 settlements rebuilt"), "{log}");
    let (code, lines) = place.reconcile(from, &[]).await;
    assert_eq!(
        (code, kinds(&lines)),
        (Some(0), BTreeMap::new()),
        "{lines:?}"
    );

    // Neither payment settles or is reported again.
    let serving = place.serve().await;
    for request in [&copied, &later] {
        let answer = serving.post("/settle", request).await;
        assert_eq!(answer["success"], false, "{answer}");
        assert_eq!(answer["errorReason"], "duplicate_settlement", "{answer}");
    }
}

/// Personal data leaves the file's rows, and the payment still cannot be settled again.
#[tokio::test(flavor = "multi_thread")]
async fn a_pruned_payment_is_a_duplicate_for_ever() {
    let place = Place::new().await;
    let from = place.block().await + 1;
    let serving = place.serve().await;
    let request = payment().await;
    let (id, transaction) = place.settle_request(&serving, &request).await;
    serving.stop().await;
    let old = Timestamp::from_secs(1_000);
    place
        .alter(&[&format!(
            "UPDATE settlements SET concluded_at = {0}, final_at = {0}, claimed_at = {0}",
            old.secs()
        )])
        .await;
    let prune = |before: &str| place.command(&["journal", "prune", "--before", before]);
    let (code, _, log) = output(prune("2999-01-01")).await;
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("--before"), "{log}");
    let (code, _, log) = output(prune("2026-01-01")).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(log.starts_with("1 settlements"), "{log}");

    let (_, copy, _) = output(place.command(&["journal", "export"])).await;
    let payer = Evm::accounts()[2].address.to_string();
    assert!(copy.contains(&id) && copy.contains(&transaction));
    assert!(!copy.contains(&payer), "{copy}");
    let serving = place.serve().await;
    let answer = serving.post("/settle", &request).await;
    assert_eq!(answer["errorReason"], "duplicate_settlement", "{answer}");
    // The amounts still match the chain.
    let (code, lines) = place.reconcile(from, &[]).await;
    assert_eq!(
        (code, kinds(&lines)),
        (Some(0), BTreeMap::new()),
        "{lines:?}"
    );
}
