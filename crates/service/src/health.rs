//! `GET /health` and `GET /supported`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use quittance_core::wire::SupportedResponse;
use quittance_core::{Facilitator, Health, LaneId, Network, Problem, Scope};
use quittance_engine::Replica;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ErrorResponse;
use crate::openapi::{CommonErrors, NoVerdict, responses};
use crate::router::Service;

/// The health of the service.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Health)]
pub(crate) struct HealthReport {
    status: Status,
    journal: JournalReport,
    /// The networks that are served.
    networks: Vec<NetworkReport>,
    /// The number of settlements in progress. Only for callers with a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    in_progress: Option<usize>,
    /// This process among those that use the same journal. Only for callers with a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    replica: Option<ReplicaReport>,
}

/// A process among those that use the same journal.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ReplicaHealth)]
struct ReplicaReport {
    /// The identity of the process, new at each start.
    id: String,
    /// How many processes use the journal, this one included.
    members: usize,
    /// The signers that this process sends transactions with now.
    lanes: Vec<LaneReport>,
}

/// A signer on a network.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = LaneHealth)]
struct LaneReport {
    /// The CAIP-2 identifier of the network.
    network: String,
    /// The signer's address.
    signer: String,
}

impl ReplicaReport {
    fn new(replica: Replica) -> Self {
        let lane = |(network, lane): (String, LaneId)| LaneReport {
            network,
            signer: lane.address().to_owned(),
        };
        Self {
            id: replica.id.to_string(),
            members: replica.members,
            lanes: replica.lanes.into_iter().map(lane).collect(),
        }
    }
}

/// `ok`: there is no problem. `degraded`: payments can be settled, and there is a problem. `down`:
/// no payment can be settled.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = HealthStatus)]
enum Status {
    Ok,
    Degraded,
    Down,
}

/// The health of the journal.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = JournalHealth)]
struct JournalReport {
    /// Whether the journal can be written. While it cannot, no payment is settled on any network.
    usable: bool,
    /// What is wrong with it. Only for callers with a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    problem: Option<String>,
}

/// The health of a network.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = NetworkHealth)]
struct NetworkReport {
    /// The CAIP-2 identifier of the network.
    network: String,
    /// Whether any payment can be settled there.
    usable: bool,
    /// What is wrong there. Only for callers with a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    problems: Option<Vec<ProblemReport>>,
}

/// A problem of a network.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HealthProblem)]
struct ProblemReport {
    /// What the problem affects: `network`, `asset ...`, `scheme ...`, `signer ...`, or
    /// `advisory` for nothing yet.
    scope: String,
    /// The problem, for people.
    problem: String,
}

impl NetworkReport {
    fn new(network: &Network, usable: bool, problems: Option<&[Problem]>) -> Self {
        let report = |problem: &Problem| ProblemReport {
            scope: match &problem.scope {
                Scope::Network => "network".to_owned(),
                Scope::Asset(asset) => format!("asset {asset}"),
                Scope::Scheme(scheme) => format!("scheme {scheme}"),
                Scope::Lane(lane) => format!("signer {lane}"),
                Scope::Advisory => "advisory".to_owned(),
            },
            problem: problem.what.clone(),
        };
        Self {
            network: network.id().to_owned(),
            usable,
            problems: problems.map(|problems| problems.iter().map(report).collect()),
        }
    }
}

/// The kinds of payments that can be settled now.
#[utoipa::path(
    get,
    path = "/supported",
    responses(
        (status = 200, description = "The kinds of payments.", body = responses::SupportedResponse),
        NoVerdict,
        CommonErrors,
    ),
)]
pub(crate) async fn supported(
    State(service): State<Service>,
) -> Result<Json<SupportedResponse>, ErrorResponse> {
    Ok(Json(service.engine.supported().await?))
}

/// The health of the service. The details are only for callers with a key.
#[utoipa::path(
    get,
    path = "/health",
    security((), ("key" = [])),
    responses(
        (status = 200, description = "Some payments can be settled.", body = HealthReport),
        (status = 503, description = "No payment can be settled.", body = HealthReport),
        CommonErrors,
    ),
)]
pub(crate) async fn health(
    State(service): State<Service>,
    headers: HeaderMap,
) -> Result<Response, ErrorResponse> {
    let kinds = service.engine.supported().await?.kinds;
    let is_detailed = service.keys.allow(&headers);
    let health: Vec<(Network, Health)> = service.engine.health();
    let is_clean = health.iter().all(|(_, health)| health.problems.is_empty());
    let networks = health.iter().map(|(network, health)| {
        let is_usable = kinds.iter().any(|kind| network.is(&kind.network));
        let problems = is_detailed.then_some(health.problems.as_slice());
        NetworkReport::new(network, is_usable, problems)
    });
    let problem = service.engine.journal_problem();
    let (code, status) = match (kinds.is_empty(), is_clean) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, Status::Down),
        (false, false) => (StatusCode::OK, Status::Degraded),
        (false, true) => (StatusCode::OK, Status::Ok),
    };
    let report = HealthReport {
        status,
        networks: networks.collect(),
        journal: JournalReport {
            usable: problem.is_none(),
            problem: problem.filter(|_| is_detailed),
        },
        in_progress: is_detailed.then(|| service.engine.in_progress()),
        replica: is_detailed.then(|| ReplicaReport::new(service.engine.replica())),
    };
    Ok((code, Json(report)).into_response())
}
