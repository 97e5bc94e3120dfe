//! Which nodes work.

use quittance_core::{Fault, Problem, Scope};

/// What a check of all nodes found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodesHealth {
    /// One problem for each node that does not work, and one of the network if none works.
    pub problems: Vec<Problem>,
    /// How many nodes work.
    pub working: usize,
}

impl NodesHealth {
    pub(crate) fn from_checks<'n>(
        checks: impl IntoIterator<Item = (&'n str, Result<(), Fault>)>,
    ) -> Self {
        let mut health = Self::default();
        for (node, check) in checks {
            match check {
                Ok(()) => health.working += 1,
                Err(fault) => {
                    let detail = format_args!("node {node}: {}", fault.detail);
                    health.problems.push(problem(Scope::Advisory, detail));
                }
            }
        }
        if health.working == 0 {
            let detail = "no node works: see the problem of each node";
            health.problems.push(problem(Scope::Network, detail));
        }
        health
    }
}

/// A problem that affects `scope`, with this description.
pub fn problem(scope: Scope, what: impl std::fmt::Display) -> Problem {
    Problem {
        scope,
        what: what.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::unavailable;

    #[test]
    fn one_working_node_keeps_the_network_usable() {
        let failed = || Err(unavailable("stuck"));
        let health = NodesHealth::from_checks([("first", failed()), ("second", Ok(()))]);
        assert_eq!(health.working, 1);
        let [only] = health.problems.as_slice() else {
            panic!("{health:?}");
        };
        assert_eq!(only.scope, Scope::Advisory);
        assert_eq!(only.what, "node first: stuck");

        let health = NodesHealth::from_checks([("first", failed())]);
        assert_eq!(health.working, 0);
        assert_eq!(health.problems[1].scope, Scope::Network);
    }
}
