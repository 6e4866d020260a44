//! The routes: the files of the page, its stream of events, one snapshot, and actions.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::actions::{self, Action, Problem};
use super::feed::{Feed, Point, event};
use super::{guard, token};
use crate::audit::Audit;
use crate::control::Handle;
use crate::desired::PageSpec;
use crate::http::{Body, Listener, Peer, response, text};
use crate::shutdown::Shutdown;

/// Bytes of an action.
const ACTION_LIMIT: usize = 16 * 1024;

const JSON: &str = "application/json";

/// The files, as they were when this was built.
const FILES: [(&str, &str, &str); 7] = [
    ("/", "text/html; charset=utf-8", include_str!("assets/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("assets/style.css")),
    ("/app.js", "text/javascript; charset=utf-8", include_str!("assets/app.js")),
    ("/dom.js", "text/javascript; charset=utf-8", include_str!("assets/dom.js")),
    ("/find.js", "text/javascript; charset=utf-8", include_str!("assets/find.js")),
    ("/views.js", "text/javascript; charset=utf-8", include_str!("assets/views.js")),
    ("/chart.js", "text/javascript; charset=utf-8", include_str!("assets/chart.js")),
];

/// A bound page.
pub struct PageServer {
    listener: Listener,
    shared: Arc<Shared>,
}

struct Shared {
    handle: Handle,
    feed: Feed,
    /// `None`: nothing can be changed here.
    token: Option<String>,
    /// `None`: nothing is written down (tests of the page alone).
    audit: Option<Audit>,
}

/// The first event of every stream.
#[derive(Serialize)]
struct Hello {
    /// Whether something can be changed here, with the token.
    actions: bool,
    history: Vec<Point>,
}

impl PageServer {
    /// Listens as `spec` says. `audit`: where changes are put on record.
    ///
    /// # Errors
    /// The address cannot be listened on, or the token cannot be made.
    pub async fn bind(
        spec: &PageSpec,
        state_dir: &Path,
        handle: Handle,
        audit: Option<Audit>,
    ) -> anyhow::Result<PageServer> {
        let listener = Listener::bind("page", spec.address).await?;
        let token = spec.actions.then(|| token::read_or_make(state_dir)).transpose()?;
        let token_file = token.is_some().then(|| token::path(state_dir).display().to_string());
        tracing::info!(address = %listener.local_addr(), token_file, "page");
        Ok(PageServer { listener, shared: Arc::new(Shared { handle, feed: Feed::new(), token, audit }) })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Serves until the shutdown; open streams end then, and the page looks for the next agent.
    pub async fn serve(self, shutdown: Shutdown) {
        let feed = self.shared.feed.clone().run(self.shared.handle.clone(), shutdown.clone());
        let shared = self.shared;
        let serving = self.listener.serve(shutdown, true, move |request| answer(request, shared.clone()));
        tokio::join!(feed, serving);
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Response<Body> {
    let mut answer = match guard::may_look(request.headers()) {
        Ok(()) => route(request, &shared).await,
        Err(why) => text(StatusCode::FORBIDDEN, format!("{why}\n")),
    };
    for (name, value) in guard::HEADERS {
        answer.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    answer
}

async fn route(request: Request<Incoming>, shared: &Shared) -> Response<Body> {
    let path = request.uri().path();
    let wanted = if path == "/api/v1/actions" { Method::POST } else { Method::GET };
    if request.method() != wanted {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {wanted} is answered here\n"));
        if let Ok(wanted) = HeaderValue::from_str(wanted.as_str()) {
            answer.headers_mut().insert(ALLOW, wanted);
        }
        return answer;
    }
    match path {
        "/api/v1/snapshot" => match shared.handle.snapshot().await {
            Ok(snapshot) => json(StatusCode::OK, &snapshot),
            Err(refused) => problem(StatusCode::SERVICE_UNAVAILABLE, refused.to_string()),
        },
        "/api/v1/events" => events(shared).await,
        "/api/v1/actions" => act(request, shared).await,
        _ => match FILES.iter().find(|(file, ..)| *file == path) {
            Some((_, kind, content)) => response(StatusCode::OK, kind, *content),
            None => text(StatusCode::NOT_FOUND, "there is no such page; / is one\n".to_owned()),
        },
    }
}

/// The history and a snapshot at once, then one each second, until somebody goes away.
async fn events(shared: &Shared) -> Response<Body> {
    let snapshot = match shared.handle.snapshot().await {
        Ok(snapshot) => snapshot,
        Err(refused) => return problem(StatusCode::SERVICE_UNAVAILABLE, refused.to_string()),
    };
    let mut following = shared.feed.subscribe();
    following.mark_unchanged();
    let hello = Hello { actions: shared.token.is_some(), history: shared.feed.history() };
    let first = stream::iter([event("hello", &hello), event("snapshot", &snapshot)]);
    let rest = stream::unfold(following, |mut following| async move {
        following.changed().await.ok()?;
        let next = following.borrow_and_update().clone();
        Some((next, following))
    });
    let frames = first.chain(rest).map(|event: Bytes| Ok(Frame::data(event)));
    let mut answer = Response::new(StreamBody::new(frames).boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    answer
}

async fn act(request: Request<Incoming>, shared: &Shared) -> Response<Body> {
    let Some(token) = &shared.token else {
        let why =
            "this page only shows; set agent.page_actions = true and restart the agent (traffic goes on)";
        return problem(StatusCode::FORBIDDEN, why.to_owned());
    };
    if let Err(why) = guard::may_act(request.headers(), token) {
        return problem(StatusCode::FORBIDDEN, why.to_owned());
    }
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.to_string()).unwrap_or_default();
    let who = format!("page token {} from {peer}", token::fingerprint(token));
    let body = match Limited::new(request.into_body(), ACTION_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return problem(StatusCode::BAD_REQUEST, format!("the request cannot be read: {error}"));
        }
    };
    let action: Action = match serde_json::from_slice(&body) {
        Ok(action) => action,
        Err(error) => {
            return problem(StatusCode::BAD_REQUEST, format!("the request makes no sense: {error}"));
        }
    };
    let (handle, audit) = (shared.handle.clone(), shared.audit.clone());
    // A task of its own: a browser that goes away leaves no change half told.
    let done = tokio::spawn(async move { actions::act(&handle, audit.as_ref(), who, action).await });
    match done.await {
        Ok(Ok(report)) => json(StatusCode::OK, &report),
        Ok(Err(refused)) => problem(actions::status(refused.code), refused.message),
        Err(_) => problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the change ended in a panic: look at the agent's log".to_owned(),
        ),
    }
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    response(status, JSON, serde_json::to_vec(value).unwrap_or_default())
}

fn problem(status: StatusCode, error: String) -> Response<Body> {
    json(status, &Problem { error })
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
