//! HTTP: queries, status, metrics and their description, on one port.
//!
//! Invariant: every answer but `/metrics` is JSON; a request is bounded in the size of its head and body, in its time, and in
//! the size of its answer; connections are bounded in number.

mod auth;
mod json;
mod query;

use crate::config::{FrontConfig, Limits, Tls};
use crate::metrics::StatementMetrics;
use atoll_model::{Error, ErrorKind};
use atoll_ports::session::Database;
use auth::Guard;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;
use query::Queries;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::{TlsAcceptor, rustls};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi, ToSchema};

/// Time for a TLS handshake, or for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest head of a request.
const MAX_HEAD: usize = 32 << 10;

/// What `/status` shows.
#[async_trait::async_trait]
pub trait StatusSource: Send + Sync {
    /// The cluster as this node sees it: nodes, sites, tables …
    async fn status(&self) -> serde_json::Value;
}

/// The address that a request comes from.
#[derive(Clone, Copy)]
struct Peer(IpAddr);

/// A statement or request that failed.
#[derive(Serialize, ToSchema)]
struct ErrorAnswer {
    /// Always false here.
    success: bool,
    /// What happened.
    message: String,
    /// PostgreSQL's code of the error.
    #[schema(example = "42P01")]
    sqlstate: &'static str,
    /// Atoll's stable name of the error.
    #[schema(example = "undefined_table")]
    code: &'static str,
    /// More about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// Where in the statement, in characters from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u32>,
}

/// An error on its way to the client.
struct Failure {
    status: StatusCode,
    error: Error,
}

impl Failure {
    fn with_status(status: StatusCode, error: Error) -> Self {
        Failure { status, error }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure { status: status_of(error.kind()), error }
    }
}

/// The HTTP status that fits an error best.
fn status_of(kind: ErrorKind) -> StatusCode {
    match (kind, &kind.sqlstate()[..2]) {
        (ErrorKind::InsufficientPrivilege, _) => StatusCode::FORBIDDEN,
        (ErrorKind::QueryCanceled, _) => StatusCode::GATEWAY_TIMEOUT,
        (_, "28") => StatusCode::UNAUTHORIZED,
        (_, "23" | "40" | "55") => StatusCode::CONFLICT,
        (_, "0A") => StatusCode::NOT_IMPLEMENTED,
        (_, "08" | "53" | "57") if kind != ErrorKind::ProtocolViolation => StatusCode::SERVICE_UNAVAILABLE,
        (_, "58" | "XX" | "F0") => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Failure { status, error } = self;
        let answer = ErrorAnswer {
            success: false,
            message: error.message().to_string(),
            sqlstate: error.kind().sqlstate(),
            code: error.kind().code(),
            detail: error.detail_text().map(str::to_string),
            hint: error.hint_text().map(str::to_string),
            position: error.position_in_statement(),
        };
        let mut response = (status, Json(answer)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = header::HeaderValue::from_static("Basic realm=\"atoll\", charset=\"UTF-8\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

struct Observed {
    guard: Arc<Guard>,
    status: Arc<dyn StatusSource>,
    metrics: Option<PrometheusHandle>,
}

/// Shows the cluster as this node sees it.
#[utoipa::path(get, path = "/status", responses((status = 200, description = "The cluster's state", body = Object)))]
async fn status(
    State(observed): State<Arc<Observed>>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<serde_json::Value>, Failure> {
    observed.guard.observer(peer, &headers, &uri).await?;
    Ok(Json(observed.status.status().await))
}

/// Says that the process lives.
#[utoipa::path(get, path = "/health", responses((status = 200, description = "Alive", body = Object)))]
async fn health() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "ok" }))
}

/// Shows counters in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", responses((status = 200, description = "Counters", body = String, content_type = "text/plain")))]
async fn metrics_text(
    State(observed): State<Arc<Observed>>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    observed.guard.observer(peer, &headers, &uri).await?;
    let text = observed.metrics.as_ref().map(PrometheusHandle::render).unwrap_or_default();
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Atoll", description = "One database out of many sites."),
    paths(query::query, status, health, metrics_text),
    components(schemas(query::QueryRequest, query::QueryAnswer, query::AnswerColumn, ErrorAnswer)),
    modifiers(&BasicAuthentication)
)]
struct Description;

struct BasicAuthentication;

impl Modify for BasicAuthentication {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Basic).build());
        openapi.components.get_or_insert_default().add_security_scheme("basic", scheme);
    }
}

async fn not_found(uri: Uri) -> Failure {
    let error = Error::new(ErrorKind::UndefinedObject, format!("there is no {}", uri.path()))
        .hint("/openapi.json describes what there is.");
    Failure::with_status(StatusCode::NOT_FOUND, error)
}

async fn not_allowed() -> Failure {
    Failure::with_status(StatusCode::METHOD_NOT_ALLOWED, Error::unsupported("this method here"))
}

fn router(
    config: &FrontConfig,
    secret: [u8; 32],
    database: Arc<dyn Database>,
    source: Arc<dyn StatusSource>,
    metrics: Option<PrometheusHandle>,
) -> Router {
    let guard = Arc::new(Guard::new(database.clone(), config.default_user.clone(), secret));
    let queries = Arc::new(Queries {
        database,
        guard: guard.clone(),
        limits: config.limits.clone(),
        metrics: StatementMetrics::new("http"),
        database_name: config.database.clone(),
    });
    let observed = Arc::new(Observed { guard, status: source, metrics });
    let description = Arc::new(Description::openapi());
    Router::new()
        .route("/query", post(query::query).with_state(queries))
        .route("/status", get(status).with_state(observed.clone()))
        .route("/metrics", get(metrics_text).with_state(observed))
        .route("/health", get(health))
        .route("/openapi.json", get(move || std::future::ready(Json((*description).clone()))))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(config.limits.max_http_body_bytes))
}

/// Serves HTTP until shutdown.
pub(crate) async fn serve(
    listener: TcpListener,
    config: FrontConfig,
    secret: [u8; 32],
    database: Arc<dyn Database>,
    source: Arc<dyn StatusSource>,
    metrics: Option<PrometheusHandle>,
    shutdown: CancellationToken,
) {
    let router = router(&config, secret, database, source, metrics);
    let tls = config.tls.as_ref().map(|Tls { http, .. }| http.clone());
    let Limits { max_http_connections, shutdown_grace, .. } = config.limits;
    let places = Arc::new(Semaphore::new(max_http_connections));
    let tracker = TaskTracker::new();
    let abort = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(permit) = places.clone().try_acquire_owned() else {
            metrics::counter!("atoll_connections_refused_total", "reason" => "too_many_http").increment(1);
            continue;
        };
        let (router, tls, shutdown, abort) = (router.clone(), tls.clone(), shutdown.clone(), abort.clone());
        tracker.spawn(async move {
            let open = gauge!("atoll_connections", "entrance" => "http");
            open.increment(1);
            tokio::select! {
                biased;
                () = connection(socket, peer, router, tls, shutdown) => {}
                () = abort.cancelled() => {}
            }
            open.decrement(1);
            drop(permit);
        });
    }
    drop(listener);
    tracker.close();
    if tokio::time::timeout(shutdown_grace, tracker.wait()).await.is_err() {
        tracing::warn!("HTTP requests that were still running at shutdown are given up");
        abort.cancel();
        tracker.wait().await;
    }
}

async fn connection(
    socket: TcpStream,
    peer: SocketAddr,
    router: Router,
    tls: Option<Arc<rustls::ServerConfig>>,
    shutdown: CancellationToken,
) {
    let _ = socket.set_nodelay(true);
    match tls {
        None => requests(socket, peer, router, shutdown).await,
        Some(tls) => {
            if let Ok(Ok(stream)) = tokio::time::timeout(HEAD_TIMEOUT, TlsAcceptor::from(tls).accept(socket)).await {
                requests(stream, peer, router, shutdown).await;
            }
        }
    }
}

async fn requests<S>(stream: S, peer: SocketAddr, router: Router, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Peer(peer.ip()));
        router.clone().call(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        ended = connection.as_mut() => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "an HTTP connection broke");
    }
}
