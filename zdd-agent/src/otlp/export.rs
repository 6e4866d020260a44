//! Spans to a collector: OTLP over HTTP, protobuf (OTLP specification 1.x, "OTLP/HTTP").

use std::collections::VecDeque;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as Proto, Status};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Span, Tracer};
use crate::http_client;
use crate::redact::Url;
use crate::shutdown::Shutdown;
use crate::tls::TlsSpec;

/// Spans of one request.
const BATCH: usize = 256;
/// Spans that are kept for a collector that is away; the oldest go.
const KEPT: usize = 4096;
/// How long spans wait for others.
const LINGER: Duration = Duration::from_millis(500);
/// Pauses after a failure: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
const TIMEOUT: Duration = Duration::from_secs(5);
/// What is left at the end has this long.
const LAST: Duration = Duration::from_secs(1);

/// A tracer whose spans go to `url` (the collector's address, as `http://127.0.0.1:4318`) until the shutdown.
pub fn start(url: &str, host: String, shutdown: Shutdown) -> (Tracer, tokio::task::JoinHandle<()>) {
    let (tracer, spans) = Tracer::new();
    let url = format!("{}/v1/traces", url.trim_end_matches('/'));
    (tracer, tokio::spawn(run(url, host, spans, shutdown)))
}

async fn run(url: String, host: String, mut spans: mpsc::Receiver<Span>, shutdown: Shutdown) {
    let mut kept: VecDeque<Span> = VecDeque::new();
    let (mut due, mut pause) = (Instant::now(), PAUSES.0);
    loop {
        tokio::select! {
            () = shutdown.wait() => break,
            span = spans.recv() => {
                let Some(span) = span else { break };
                if kept.is_empty() {
                    due = due.max(Instant::now() + LINGER);
                }
                keep(&mut kept, span);
            }
            () = tokio::time::sleep_until(due), if !kept.is_empty() => match send(&url, &host, &mut kept).await {
                Ok(()) => pause = PAUSES.0,
                Err(why) => {
                    if pause == PAUSES.0 {
                        // A collector's path may hold its token.
                        let to = Url(url.clone());
                        tracing::warn!(%to, "spans cannot be sent, and are kept for a while: {why}");
                    }
                    due = Instant::now() + pause;
                    pause = (pause * 2).min(PAUSES.1);
                }
            },
        }
    }
    while let Ok(span) = spans.try_recv() {
        keep(&mut kept, span);
    }
    // What cannot be sent now is lost: traces are for people, and an end must not wait for them.
    let _ = tokio::time::timeout(LAST, send(&url, &host, &mut kept)).await;
}

fn keep(kept: &mut VecDeque<Span>, span: Span) {
    kept.push_back(span);
    let over = kept.len().saturating_sub(KEPT);
    kept.drain(..over);
}

/// Sends all that is kept; what was taken is forgotten.
async fn send(url: &str, host: &str, kept: &mut VecDeque<Span>) -> Result<(), String> {
    while !kept.is_empty() {
        let batch: Vec<&Span> = kept.iter().take(BATCH).collect();
        let count = batch.len();
        let body = request(host, &batch).encode_to_vec();
        let headers = [("content-type", "application/x-protobuf")];
        http_client::post(url, &headers, &TlsSpec::default(), body, TIMEOUT).await?;
        kept.drain(..count);
    }
    Ok(())
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// Spans as the message that collectors take.
fn request(host: &str, spans: &[&Span]) -> ExportTraceServiceRequest {
    let build = env!("CARGO_PKG_VERSION");
    let resource = Resource {
        attributes: vec![text("service.name", "zdd"), text("service.version", build), text("host.id", host)],
        ..Resource::default()
    };
    let scope = InstrumentationScope {
        name: "zdd".to_owned(),
        version: build.to_owned(),
        ..InstrumentationScope::default()
    };
    let spans = spans.iter().map(|span| proto(span)).collect();
    let scoped = ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() };
    let of_resource =
        ResourceSpans { resource: Some(resource), scope_spans: vec![scoped], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![of_resource] }
}

fn proto(span: &Span) -> Proto {
    let status = match &span.error {
        Some(why) => Status { message: why.clone(), code: StatusCode::Error as i32 },
        None => Status::default(),
    };
    Proto {
        trace_id: span.context.trace.to_vec(),
        span_id: span.context.span.to_vec(),
        parent_span_id: span.parent.map_or(Vec::new(), |parent| parent.to_vec()),
        // Bit 0: sampled, as the traceparent says.
        flags: 1,
        name: span.name.clone(),
        kind: SpanKind::Internal as i32,
        start_time_unix_nano: span.start_ns,
        end_time_unix_nano: span.end_ns,
        attributes: span.attributes.iter().map(|(key, value)| text(key, value)).collect(),
        events: span
            .events
            .iter()
            .map(|(at, name)| Event { time_unix_nano: *at, name: name.clone(), ..Event::default() })
            .collect(),
        status: Some(status),
        ..Proto::default()
    }
}
