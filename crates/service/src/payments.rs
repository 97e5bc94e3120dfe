//! `POST /verify` and `POST /settle`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use quittance_core::wire::{SettleResponse, VerifyResponse, network_named};
use quittance_core::{
    Facilitator, FacilitatorError, Malformed, PaymentId, PaymentRequest, Refusal, Rejection, SaleId,
};
use quittance_engine::Engine;
use tokio::time::{Instant, timeout};
use tracing::info;

use crate::delivery;
use crate::error::{ErrorResponse, error_code};
use crate::metrics;
use crate::openapi::{NotFound, PaymentErrors, responses};
use crate::rate::Caller;
use crate::router::Service;
use crate::shares::{Share, Shares};

/// An endpoint that takes a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Verify,
    Settle,
}

impl Endpoint {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Settle => "settle",
        }
    }

    /// The answer to a request that is rejected by its message alone.
    fn reject(self, rejection: &Rejection, network: &str) -> Response {
        match self {
            Self::Verify => Json(VerifyResponse::invalid(rejection, None)).into_response(),
            Self::Settle => {
                Json(SettleResponse::failed(network, rejection, None, "")).into_response()
            }
        }
    }
}

/// Whether a payment would settle now. Changes nothing.
#[utoipa::path(
    post,
    path = "/verify",
    security((), ("key" = [])),
    request_body(content = responses::FacilitatorRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The verdict.", body = responses::VerifyResponse),
        PaymentErrors,
    ),
)]
pub(crate) async fn verify(
    State(service): State<Service>,
    request: Request,
) -> Result<Response, ErrorResponse> {
    service.answer(Endpoint::Verify, request, None).await
}

/// Transfers the money. The request can be repeated: an authorization settles at most once.
#[utoipa::path(
    post,
    path = "/settle",
    security((), ("key" = [])),
    request_body(content = responses::FacilitatorRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The outcome, or settlement_pending.", body = responses::SettleResponse),
        PaymentErrors,
    ),
)]
pub(crate) async fn settle(
    State(service): State<Service>,
    request: Request,
) -> Result<Response, ErrorResponse> {
    service.answer(Endpoint::Settle, request, None).await
}

/// Settles a refund: a payment by the seller back to the payer of a settlement. All refunds of a
/// settlement together never exceed it.
#[utoipa::path(
    post,
    path = "/settlements/{id}/refunds",
    security((), ("key" = [])),
    params(("id" = String, Path, description = "The id of the settlement that is refunded.")),
    request_body(content = responses::FacilitatorRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The outcome, or settlement_pending.", body = responses::SettleResponse),
        NotFound,
        PaymentErrors,
    ),
)]
pub(crate) async fn refund(
    State(service): State<Service>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ErrorResponse> {
    let id: Option<PaymentId> = id.ok().and_then(|Path(id)| id.parse().ok());
    let id = id.ok_or_else(|| ErrorResponse::not_found("the path has no settlement id"))?;
    service.answer(Endpoint::Settle, request, Some(id)).await
}

/// The engine's answer to a payment.
enum Verdict {
    Verify(VerifyResponse),
    Settle(Box<SettleResponse>),
}

impl Verdict {
    /// The result, for logs and metrics: one word for success, or the reason code.
    fn result(&self) -> &str {
        match self {
            Self::Verify(verdict) if verdict.is_valid => "valid",
            Self::Verify(verdict) => verdict.invalid_reason.as_deref().unwrap_or("invalid"),
            Self::Settle(outcome) if outcome.success => "settled",
            Self::Settle(outcome) => outcome.error_reason.as_deref().unwrap_or("failed"),
        }
    }

    fn payer(&self) -> Option<&str> {
        match self {
            Self::Verify(verdict) => verdict.payer.as_deref(),
            Self::Settle(outcome) => outcome.payer.as_deref(),
        }
    }

    fn transaction(&self) -> Option<&str> {
        match self {
            Self::Verify(_) => None,
            Self::Settle(outcome) => Some(&outcome.transaction),
        }
    }

    fn into_response(self, engine: &Engine) -> Response {
        match self {
            Self::Verify(verdict) => Json(verdict).into_response(),
            Self::Settle(outcome) => delivery::settled(engine, *outcome),
        }
    }
}

impl Service {
    async fn answer(
        &self,
        endpoint: Endpoint,
        request: Request,
        refund_of: Option<PaymentId>,
    ) -> Result<Response, ErrorResponse> {
        let caller = request.extensions().get().copied();
        let known = match caller {
            Some(Caller::Key(at)) => self.keys.name(at),
            _ => None,
        };
        let sale = sale(request.headers())
            .map_err(|malformed| ErrorResponse::malformed(&malformed, endpoint))?;
        let request = match self.read(request, endpoint).await? {
            Ok(request) => request,
            Err(Rejected { rejection, network }) => {
                return Ok(endpoint.reject(&rejection, &network));
            }
        };
        let request = match sale {
            Some(sale) => request.with_sale(sale),
            None => request,
        };
        let request = match known {
            Some(name) => request.by(quittance_core::RequestCaller::Known(name.into())),
            None => request,
        };
        let request = match refund_of {
            Some(settlement) => request.as_refund_of(settlement),
            None => request,
        };
        let started = Instant::now();
        // The place among the waiting calls is kept until the answer.
        let (answer, _waiting) = match endpoint {
            Endpoint::Verify => {
                let _working = place(&self.working, caller)?;
                let answer = self.engine.verify(&request).await;
                (answer.map(Verdict::Verify), None)
            }
            Endpoint::Settle => {
                let waiting = place(&self.waiting, caller)?;
                let working = place(&self.working, caller)?;
                // The engine gives the place back when it only waits for the settlement.
                let answer = self.engine.settle_with_permit(&request, working).await;
                let answer = answer.map(|outcome| Verdict::Settle(Box::new(outcome)));
                (answer, Some(waiting))
            }
        };
        self.record(endpoint, &request, &answer, started);
        match answer {
            Ok(verdict) => Ok(verdict.into_response(&self.engine)),
            Err(error) => {
                let response = ErrorResponse::for_payment(error, endpoint);
                Err(response.on_network(&request.requirements.network))
            }
        }
    }

    /// Logs and counts an answer.
    fn record(
        &self,
        endpoint: Endpoint,
        request: &PaymentRequest,
        answer: &Result<Verdict, FacilitatorError>,
        started: Instant,
    ) {
        let verdict = answer.as_ref().ok();
        let result = match answer {
            Ok(verdict) => verdict.result(),
            Err(error) => error_code(error),
        };
        let network = self.network_label(request);
        metrics::count_verdict(endpoint, &network, result, started.elapsed());
        info!(
            result,
            network,
            payer = verdict.and_then(Verdict::payer),
            transaction = verdict.and_then(Verdict::transaction),
            "{}",
            endpoint.name()
        );
    }

    /// The network of a request by its CAIP-2 identifier, or `other` for a network that is not
    /// served. A caller's own text is not logged and not a metric label: it may have up to 60 KiB.
    fn network_label(&self, request: &PaymentRequest) -> String {
        let named = &request.requirements.network;
        let known = self.networks.iter().find(|network| network.is(named));
        known.map_or_else(|| "other".to_owned(), |network| network.id().to_owned())
    }

    /// Reads and decodes a request. Takes no place meanwhile, so that a slow body blocks no other
    /// caller.
    async fn read(
        &self,
        request: Request,
        endpoint: Endpoint,
    ) -> Result<Result<PaymentRequest, Rejected>, ErrorResponse> {
        if !may_be_json(request.headers()) {
            return Err(ErrorResponse::unsupported_media_type());
        }
        let body = timeout(self.body_max, Bytes::from_request(request, &()))
            .await
            .map_err(|_| ErrorResponse::body_timeout())?
            .map_err(|rejection| incomplete_body(&rejection, endpoint))?;
        match PaymentRequest::decode(&body) {
            Ok(request) => Ok(Ok(request)),
            Err(refusal) => {
                let network = network_named(&body).unwrap_or_default();
                match refusal {
                    Refusal::Rejected(rejection) => Ok(Err(Rejected { rejection, network })),
                    Refusal::Malformed(malformed) => {
                        let response = ErrorResponse::malformed(&malformed, endpoint);
                        Err(response.on_network(&network))
                    }
                }
            }
        }
    }
}

/// A place for a payment. Other requests need none, so that `/health` is answered under any load.
fn place(shares: &Shares, caller: Option<Caller>) -> Result<Share, ErrorResponse> {
    shares.enter(caller).ok_or_else(|| {
        metrics::count_shed();
        ErrorResponse::busy()
    })
}

/// A request that is rejected by its message alone, with the network that it names.
struct Rejected {
    rejection: Rejection,
    network: String,
}

/// The caller's sale, by the header `Idempotency-Key`.
fn sale(headers: &HeaderMap) -> Result<Option<SaleId>, Malformed> {
    let Some(value) = headers.get(SaleId::HEADER) else {
        return Ok(None);
    };
    // A value that is no text is not visible ASCII either.
    SaleId::new(value.to_str().unwrap_or_default()).map(Some)
}

/// Accepts a missing content type, and no other than JSON. The name of a media type has no case,
/// and parameters can follow it (RFC 9110, section 8.3.1).
fn may_be_json(headers: &HeaderMap) -> bool {
    let is_json = |value: &HeaderValue| {
        let essence = value.to_str().unwrap_or_default().split(';').next();
        essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
    };
    headers.get(CONTENT_TYPE).is_none_or(is_json)
}

fn incomplete_body(rejection: &BytesRejection, endpoint: Endpoint) -> ErrorResponse {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ErrorResponse::too_large(),
        _ => {
            let malformed = Malformed::new("body", "was not received completely");
            ErrorResponse::malformed(&malformed, endpoint)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_types_name_has_no_case_and_ends_at_its_parameters() {
        let is_json = |value: &str| {
            let headers = [(CONTENT_TYPE, value.parse().unwrap())];
            may_be_json(&headers.into_iter().collect())
        };
        for json in [
            "application/json",
            "Application/JSON",
            "application/json;charset=utf-8",
            "application/json ; charset=utf-8",
        ] {
            assert!(is_json(json), "{json}");
        }
        for other in ["application/jsonp", "application/json5", "text/json", ""] {
            assert!(!is_json(other), "{other}");
        }
        assert!(may_be_json(&HeaderMap::new()));
    }
}
