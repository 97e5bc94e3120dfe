//! A node as a child process that prints the port on which it listens.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::DevnetError;

/// Starts a node and waits for the line of its output that begins with `prefix`. Returns the rest
/// of the line.
pub(crate) async fn start(
    command: &mut Command,
    ready: &str,
    wait: Duration,
) -> Result<(Child, String), DevnetError> {
    let failed = |error: std::io::Error| DevnetError::Node(error.to_string());
    let mut node = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let stdout = node
        .stdout
        .take()
        .ok_or_else(|| DevnetError::Node("has no output".to_owned()))?;
    let mut lines = BufReader::new(stdout).lines();
    let listening = async {
        while let Some(line) = lines.next_line().await.map_err(failed)? {
            if let Some(place) = line.strip_prefix(ready) {
                return Ok(place.trim().to_owned());
            }
        }
        Err(DevnetError::Node(
            "stopped before it listened; is the port taken?".to_owned(),
        ))
    };
    let place = tokio::time::timeout(wait, listening)
        .await
        .map_err(|_| DevnetError::Node("does not say where it listens".to_owned()))??;
    // A node stops when the pipe of its output is full, so the output is read to the end.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((node, place))
}

/// The error of a failed request to the node.
pub(crate) fn rpc_error(method: &str, problem: impl std::fmt::Display) -> DevnetError {
    DevnetError::Rpc {
        method: method.to_owned(),
        problem: problem.to_string(),
    }
}
