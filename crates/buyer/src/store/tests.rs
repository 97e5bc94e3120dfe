use proptest::prelude::*;
use quittance_core::Amount;
use serde_json::{Value, json};

use super::*;

/// A file that the last version with JSON files wrote.
const JSON_FILE: &str = include_str!("../../tests/fixtures/purchases-v2.json");

fn payment(id: &str) -> KeptPayment {
    KeptPayment {
        request: Some(RequestId([9; 32])),
        version: Version::V2,
        form: SignedForm::Header("e30=".to_owned()),
        exposure: Exposure::Possible,
        open: OpenPayment {
            id: id.to_owned(),
            network: "a:1".to_owned(),
            origin: "http://a.example".to_owned(),
            asset: "x".to_owned(),
            symbol: "USDC".to_owned(),
            decimals: Some(6),
            pay_to: "y".to_owned(),
            amount: Amount::from(1),
            expires: Timestamp::from_secs(160),
            transaction: None,
        },
        was_used: false,
    }
}

const KEY: PurchaseKey = PurchaseKey([1; 32]);

fn write(store: &Store, payment: &KeptPayment) -> Result<(), StateError> {
    let id = (KEY, payment.open.id.clone());
    let change = store.queue(Changes::from([(id, Some(payment.clone()))]));
    store.write_until(change)
}

fn sorted(mut payments: Vec<(PurchaseKey, KeptPayment)>) -> Vec<(PurchaseKey, KeptPayment)> {
    payments.sort_by_key(|(key, payment)| (*key, payment.open.id.clone()));
    payments
}

/// One payment as the JSON of version 2 has it.
fn to_json(key: &PurchaseKey, payment: &KeptPayment) -> Value {
    let hexadecimal =
        |hash: &[u8; 32]| -> String { hash.iter().map(|byte| format!("{byte:02x}")).collect() };
    let standing = match payment.exposure {
        Exposure::None => "unseen",
        Exposure::Refused => "cleared",
        Exposure::Possible => "doubtful",
    };
    let mut value = json!({
        "purchase": hexadecimal(&key.0), "x402Version": payment.version.number(), "standing": standing,
        "open": payment.open });
    if let Some(request) = &payment.request {
        value["asked"] = hexadecimal(&request.0).into();
    }
    match &payment.form {
        SignedForm::Header(text) => value["header"] = text.as_str().into(),
        SignedForm::Payload(text) => value["payload"] = text.as_str().into(),
    }
    value
}

#[test]
fn a_json_file_is_imported_and_kept_beside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purchases.json");
    fs::write(&path, JSON_FILE).unwrap();
    let (store, imported) = Store::open(&path).unwrap();
    let [(_, first), (_, second)] = imported.as_slice() else {
        panic!("{imported:?}");
    };
    assert_eq!(
        (first.exposure, second.exposure),
        (Exposure::None, Exposure::Possible)
    );
    let values = [(&KEY_OF_FILE, first), (&KEY_OF_FILE, second)];
    let again = json!({ "version": 2, "payments": values.map(|(key, it)| to_json(key, it)) });
    assert_eq!(again, serde_json::from_str::<Value>(JSON_FILE).unwrap());
    let kept = folder.path().join("purchases.json.imported");
    assert_eq!(fs::read_to_string(&kept).unwrap(), JSON_FILE);
    assert!(fs::read(&path).unwrap().starts_with(SQLITE_MAGIC));
    drop(store);
    assert_eq!(sorted(Store::open(&path).unwrap().1), sorted(imported));
}

const KEY_OF_FILE: PurchaseKey = PurchaseKey([0xab; 32]);

/// A crash after the copy and before the database was in place leaves the JSON where it was.
#[test]
fn an_interrupted_import_is_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purchases.json");
    for (suffix, content) in [("", JSON_FILE), (".imported", JSON_FILE), (".new", "torn")] {
        fs::write(with_suffix(&path, suffix), content).unwrap();
    }
    assert_eq!(Store::open(&path).unwrap().1.len(), 2);
    assert!(!with_suffix(&path, ".imported.1").exists());
    // A copy with another content is not overwritten.
    fs::remove_file(&path).unwrap();
    fs::write(&path, r#"{"version":2,"payments":[]}"#).unwrap();
    assert!(Store::open(&path).unwrap().1.is_empty());
    let first = fs::read_to_string(with_suffix(&path, ".imported")).unwrap();
    assert_eq!(first, JSON_FILE);
    assert!(with_suffix(&path, ".imported.1").exists());
}

/// In version 1, `refused` was taken for a proof.
#[test]
fn a_refused_payment_of_version_1_is_possibly_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purchases.json");
    let open = json!({ "id": "a", "network": "a:1", "asset": "x", "payTo": "y", "amount": "1", "expires": 160,
        "transaction": null });
    let payment = json!({ "purchase": "ab".repeat(32), "x402Version": 2, "header": "e30=", "standing": "refused",
        "open": open });
    let text = json!({ "version": 1, "payments": [payment] }).to_string();
    fs::write(&path, text).unwrap();
    let (_, payments) = Store::open(&path).unwrap();
    let [(_, payment)] = payments.as_slice() else {
        panic!("{payments:?}");
    };
    assert_eq!(
        (payment.exposure, payment.request),
        (Exposure::Possible, None)
    );
}

#[test]
fn an_unreadable_file_is_an_error_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purchases.json");
    let other = String::from_utf8([SQLITE_MAGIC, b"and no database"].concat()).unwrap();
    for text in [
        "",
        "{}",
        r#"{"version":3,"payments":[]}"#,
        r#"{"version":1,"payments":[{}]}"#,
        &other,
    ] {
        fs::write(&path, text).unwrap();
        assert!(Store::open(&path).is_err(), "{text}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn a_database_of_another_program_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purchases.json");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE t (x)")
        .unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(
        matches!(error, StateError::OtherDatabase { .. }),
        "{error:?}"
    );
}

#[test]
fn one_buyer_has_a_file_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/purchases.json");
    let first = Store::open(&path).unwrap();
    let second = Store::open(&path).unwrap_err();
    assert!(matches!(second, StateError::InUse { .. }), "{second}");
    drop(first);
    assert!(Store::open(&path).is_ok());
}

/// Two buyers with one file, one of them through a link, signed twice.
#[cfg(unix)]
#[test]
fn a_file_has_one_lock_through_all_links() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/purchases.json");
    let (link, over) = (
        folder.path().join("link.json"),
        folder.path().join("over.json"),
    );
    symlink("data/purchases.json", &link).unwrap();
    symlink("link.json", &over).unwrap();
    // The link leads to a file that does not exist yet.
    let (store, _) = Store::open(&over).unwrap();
    write(&store, &payment("a")).unwrap();
    for name in [&path, &link, &over] {
        let second = Store::open(name).unwrap_err();
        assert!(matches!(second, StateError::InUse { .. }), "{second}");
    }
    for link in [&link, &over] {
        assert!(fs::symlink_metadata(link).unwrap().is_symlink());
    }
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    symlink("round.json", folder.path().join("round.json")).unwrap();
    assert!(Store::open(&folder.path().join("round.json")).is_err());
}

/// The parent folder of a file without a folder in its name was not synced.
#[test]
fn every_path_has_a_folder() {
    for (path, folder) in [
        ("a.json", "."),
        ("./a.json", "."),
        ("b/a.json", "b"),
        ("/a.json", "/"),
    ] {
        assert_eq!(folder_of(Path::new(path)), Path::new(folder), "{path}");
    }
    assert!(resolve(Path::new("Cargo.toml")).unwrap().is_absolute());
}

/// SQLite reports a full disk as it reports a database at its maximum size.
#[test]
fn a_change_that_a_full_disk_refused_is_written_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purchases.json");
    let (store, _) = Store::open(&path).unwrap();
    write(&store, &payment("a")).unwrap();
    let limit = |pages: i64| {
        let database = store.database.lock().unwrap();
        let set =
            database
                .connection
                .pragma_update_and_check(None, "max_page_count", pages, |row| row.get::<_, i64>(0));
        set.unwrap();
    };
    limit(1);
    let mut large = payment("b");
    large.form = SignedForm::Header("x".repeat(30_000));
    let error = write(&store, &large).unwrap_err();
    assert!(matches!(error, StateError::Database { .. }), "{error:?}");
    // The refused change is not lost, and a newer one to the same payment wins.
    limit(1_000_000);
    large.open.transaction = Some("0x1".to_owned());
    let id = (KEY, "b".to_owned());
    store.queue(Changes::from([(id, Some(large.clone()))]));
    write(&store, &payment("c")).unwrap();
    drop(store);
    let payments = sorted(Store::open(&path).unwrap().1);
    let expected = [payment("a"), large, payment("c")].map(|payment| (KEY, payment));
    assert_eq!(payments, expected);
}

#[test]
fn a_deleted_or_replaced_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purchases.json");
    let (store, _) = Store::open(&path).unwrap();
    fs::rename(&path, folder.path().join("moved.json")).unwrap();
    assert!(matches!(
        write(&store, &payment("a")),
        Err(StateError::Io { .. })
    ));
    fs::write(&path, "new").unwrap();
    assert!(matches!(
        write(&store, &payment("a")),
        Err(StateError::Replaced { .. })
    ));
}

/// The log of a deleted database was about to be applied to the new one. It can also have the only
/// copy of a payment, if the database was moved away.
#[test]
fn the_log_of_a_missing_database_is_not_used_and_not_lost() {
    for suffix in ["-wal", "-journal"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("purchases.json");
        let log = with_suffix(&path, suffix);
        fs::write(&log, "a payment").unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, StateError::Missing { .. }), "{error:?}");
        assert_eq!(fs::read(&log).unwrap(), b"a payment");
        fs::write(&log, "").unwrap();
        assert!(Store::open(&path).unwrap().1.is_empty());
    }
}

/// A payment was in the write-ahead log only, so a copied or restored file lacked it and it was
/// signed again.
#[test]
fn a_written_payment_is_in_the_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purchases.json");
    let (store, _) = Store::open(&path).unwrap();
    write(&store, &payment("a")).unwrap();
    let copy = folder.path().join("copy.json");
    fs::copy(&path, &copy).unwrap();
    assert_eq!(Store::open(&copy).unwrap().1, [(KEY, payment("a"))]);
    drop(store);
}

/// Each name of a file has a lock and a log of its own.
#[cfg(unix)]
#[test]
fn a_file_with_two_names_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purchases.json");
    drop(Store::open(&path).unwrap());
    fs::hard_link(&path, folder.path().join("other.json")).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StateError::HardLink { .. }), "{error:?}");
}

/// A process that finds no lock file still meets the lock of the database.
#[test]
fn a_deleted_lock_file_lets_no_second_buyer_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purchases.json");
    let (store, _) = Store::open(&path).unwrap();
    write(&store, &payment("a")).unwrap();
    fs::remove_file(with_suffix(&path, ".lock")).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StateError::Database { .. }), "{error:?}");
}

#[cfg(unix)]
#[test]
fn a_restored_file_is_private_again() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purchases.json");
    drop(Store::open(&path).unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    drop(Store::open(&path).unwrap());
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// A runtime that shuts down drops the tasks that have not begun.
#[test]
fn a_queued_change_is_written_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purchases.json");
    let (store, _) = Store::open(&path).unwrap();
    let id = (KEY, "a".to_owned());
    store.queue(Changes::from([(id, Some(payment("a")))]));
    drop(store);
    assert_eq!(Store::open(&path).unwrap().1, [(KEY, payment("a"))]);
}

/// The database of another program was converted before it was refused.
#[test]
fn the_database_of_another_program_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE t (x)").unwrap();
    other.close().unwrap();
    let before = fs::read(&path).unwrap();
    assert!(Store::open(&path).is_err());
    assert_eq!(fs::read(&path).unwrap(), before);
}

/// A file that holds a key instead of payments was quoted in the error.
#[test]
fn an_unreadable_file_is_not_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purchases.json");
    fs::write(&path, "\"hunter2\"").unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(
        !format!("{error} {error:?}").contains("hunter2"),
        "{error:?}"
    );
}

fn any_payment() -> impl Strategy<Value = (PurchaseKey, KeptPayment)> {
    let exposure =
        prop::sample::select(vec![Exposure::None, Exposure::Refused, Exposure::Possible]);
    let form = prop_oneof![
        "[A-Za-z0-9+/=]{0,60}".prop_map(SignedForm::Header),
        ".{0,60}".prop_map(SignedForm::Payload),
    ];
    let facts = (
        any::<(String, String, String, String, String)>(),
        any::<Option<u8>>(),
        any::<u128>(),
        any::<u64>(),
        any::<Option<String>>(),
    );
    let open = facts.prop_map(|(texts, decimals, amount, expires, transaction)| {
        let (network, origin, asset, symbol, pay_to) = texts;
        OpenPayment {
            id: String::new(),
            network,
            origin,
            asset,
            symbol,
            decimals,
            pay_to,
            amount: amount.to_string().parse().unwrap(),
            expires: Timestamp::from_secs(expires),
            transaction,
        }
    });
    let version = prop::sample::select(vec![Version::V1, Version::V2]);
    let ids = (any::<[u8; 32]>(), any::<Option<[u8; 32]>>());
    (ids, version, form, exposure, open).prop_map(
        |((key, request), version, form, exposure, open)| {
            let payment = KeptPayment {
                request: request.map(RequestId),
                version,
                form,
                exposure,
                open,
                was_used: false,
            };
            (PurchaseKey(key), payment)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn an_import_loses_nothing(payments in prop::collection::vec(any_payment(), 0..6)) {
        let mut payments = payments;
        for (at, (_, payment)) in payments.iter_mut().enumerate() {
            payment.open.id = at.to_string();
        }
        let saved: Vec<Value> = payments.iter().map(|(key, it)| to_json(key, it)).collect();
        let text = json!({ "version": 2, "payments": saved }).to_string();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("purchases.json");
        fs::write(&path, &text).unwrap();
        let (store, imported) = Store::open(&path).unwrap();
        drop(store);
        let (_, reopened) = Store::open(&path).unwrap();
        prop_assert_eq!(sorted(imported), sorted(payments.clone()));
        prop_assert_eq!(sorted(reopened), sorted(payments));
        prop_assert_eq!(fs::read_to_string(with_suffix(&path, ".imported")).unwrap(), text);
    }
}
