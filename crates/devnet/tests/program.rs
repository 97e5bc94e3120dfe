//! The `quittance-devnet` program, as a developer runs it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::process::{Output, Stdio};

use quittance_cli::config::Config;
use quittance_cli::families::Families;
use quittance_cli::startup;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

fn devnet(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quittance-devnet"));
    command.args(arguments).kill_on_drop(true);
    command
}

async fn output(mut command: Command) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// Starts local chains, and returns everything that the program prints about them.
async fn start(arguments: &[&str]) -> (Child, Vec<String>) {
    let mut child = devnet(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut printed = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        let is_last = line.contains("Ctrl-C");
        printed.push(line);
        if is_last {
            break;
        }
    }
    (child, printed)
}

/// Stops local chains as Ctrl-C does. A killed program could not stop its nodes.
async fn stop(mut devnet: Child) {
    let process = devnet.id().unwrap().to_string();
    let kill = std::process::Command::new("kill")
        .args(["-INT", &process])
        .status();
    assert!(kill.unwrap().success());
    assert!(devnet.wait().await.unwrap().success());
}

/// The printed configuration, with the printed secrets in files instead of in the environment.
fn configuration(printed: &[String], folder: &std::path::Path) -> String {
    let line_with = |text: &str| printed.iter().position(|line| line.contains(text)).unwrap();
    let lines = &printed[line_with("access.anyone")..line_with("and run")];
    let mut config = lines.join("\n");
    for name in ["SIGNER", "FEE_PAYER"] {
        let path = folder.join(name);
        if let Some(secret) = exported(printed, name) {
            std::fs::write(&path, secret).unwrap();
        }
        config = config.replace(&format!("env = \"{name}\""), &format!("file = {path:?}"));
    }
    format!(
        "listen = \"127.0.0.1:0\"\njournal = {:?}\n{config}",
        folder.join("journal.db")
    )
}

/// The value that the program tells to export as this variable.
fn exported(printed: &[String], name: &str) -> Option<String> {
    let prefix = format!("export {name}=");
    let mut values = printed
        .iter()
        .filter_map(|line| line.trim().strip_prefix(&prefix));
    values.next().map(ToOwned::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_balances_its_books() {
    let (code, printed, errors) = output(devnet(&["demo"])).await;
    assert_eq!(code, Some(0), "{printed}{errors}");
    for line in [
        "exact on eip155:84532",
        "exact on solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
        "transaction 0x",
        "batch-settlement on eip155:84532",
        "   paid     0.0008 USDC",
        "claim by transaction 0x",
        "settle by transaction 0x",
        "the seller received 0.0008 USDC",
    ] {
        assert!(printed.contains(line), "{line} is not in\n{printed}");
    }
    // One on each chain.
    for line in ["   buyer ", "   seller ", " -0.01", " +0.01"] {
        assert_eq!(printed.matches(line).count(), 2, "{line} in\n{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_configuration_works() {
    for (command, networks) in [("all", 2), ("evm", 1), ("solana", 1)] {
        let ports: &[&str] = match command {
            "all" => &["all", "--port", "0", "--solana-port", "0"],
            "evm" => &["evm", "--port", "0"],
            _ => &["solana", "--solana-port", "0"],
        };
        let (devnet, printed) = start(ports).await;
        let folder = tempfile::tempdir().unwrap();
        let text = configuration(&printed, folder.path());
        let families = Families::shipped();
        let config = Config::parse(&text, &families).unwrap();
        let report = startup::check(&config, &families).await;
        assert!(report.problems.is_empty(), "{report:?}");
        assert_eq!(report.networks.len(), networks, "{report:?}");
        let mut settle = report.networks.iter().map(|network| network.can_settle);
        assert!(settle.all(|can_settle| can_settle), "{report:?}");
        let mut healths = report.networks.iter().map(|network| &network.health);
        assert!(
            healths.all(|health| health.problems.is_empty()),
            "{report:?}"
        );
        if let Some(node) = exported(&printed, "QUITTANCE_SOLANA_RPC") {
            assert!(text.contains(&node), "{text}");
        }
        stop(devnet).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_in_the_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (option, other) in [("--port", "--solana-port"), ("--solana-port", "--port")] {
        let (code, _, errors) = output(devnet(&["all", option, &port, other, "0"])).await;
        assert_eq!(code, Some(1));
        let named = format!("on port {port} ({option})");
        assert!(errors.contains(&named), "{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_as_far_apart_as_the_option_says() {
    let arguments = ["evm", "--port", "0", "--block-secs", "6"];
    let (devnet, printed) = start(&arguments).await;
    let folder = tempfile::tempdir().unwrap();
    let text = configuration(&printed, folder.path());
    let url = text.split("rpc = [\"").nth(1).unwrap().split('"').next();
    let blocks = async || {
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]}"#;
        let post = reqwest::Client::new().post(url.unwrap());
        let post = post.header("content-type", "application/json").body(body);
        let answer: serde_json::Value = post.send().await.unwrap().json().await.unwrap();
        let number = answer["result"].as_str().unwrap().trim_start_matches("0x");
        u64::from_str_radix(number, 16).unwrap()
    };
    let before = blocks().await;
    tokio::time::sleep(std::time::Duration::from_secs(7)).await;
    let made = blocks().await - before;
    assert!((1..=2).contains(&made), "{made} blocks in 7 seconds");
    stop(devnet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_help_of_every_command_has_an_example() {
    for command in ["all", "evm", "solana", "demo"] {
        let (code, help, errors) = output(devnet(&[command, "--help"])).await;
        assert_eq!(code, Some(0), "{errors}");
        let example = format!("\n  quittance-devnet {command}");
        assert!(
            help.contains("Example") && help.contains(&example),
            "{help}"
        );
    }
}
