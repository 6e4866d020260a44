//! The door: a call whose caller lacks the role for it is refused before anything reads it.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::Either;
use tonic::Status;
use tonic::codegen::{Service, http};

use super::caller::Caller;
use super::roles::{Policy, needed};
use crate::desired::Access;

/// Wraps all services of the server.
#[derive(Clone, Debug)]
pub(super) struct Authorize<S> {
    pub inner: S,
    pub policy: Arc<Policy>,
}

/// Whether the call may be made.
fn judge(policy: &Policy, caller: Option<&Caller>, path: &str) -> Result<(), Status> {
    let Some(caller) = caller else {
        return Err(Status::internal("the connection does not say whose it is: a mistake in zdd"));
    };
    let Some(needed) = needed(path) else {
        return Err(Status::unimplemented(format!("there is no {path} here")));
    };
    let has = policy.of(caller);
    let rpc = path.rsplit('/').next().unwrap_or_default();
    if has >= Some(needed) {
        tracing::debug!(%caller, rpc, "called");
        return Ok(());
    }
    let word = |access: Option<Access>| match access {
        None => "no role",
        Some(Access::Viewer) => "viewer",
        Some(Access::Operator) => "operator",
        Some(Access::Admin) => "admin",
    };
    tracing::warn!(%caller, rpc, has = word(has), needs = word(Some(needed)), "refused a call");
    let whose = match caller {
        Caller::Local { uid, .. } => format!("uid {uid}"),
        Caller::Remote { names, .. } => format!("the certificate ({})", names.join(", ")),
    };
    Err(Status::permission_denied(format!(
        "{rpc} needs the role {}; {whose} has {}\nhelp: name it in [[agent.api.role]] of the agent's configuration, and restart the agent",
        word(Some(needed)),
        word(has)
    )))
}

impl<S, B> Service<http::Request<B>> for Authorize<S>
where
    S: Service<http::Request<B>, Response = http::Response<tonic::body::Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<Ready<Result<S::Response, S::Error>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        match judge(&self.policy, request.extensions().get::<Caller>(), request.uri().path()) {
            Ok(()) => Either::Right(self.inner.call(request)),
            Err(refused) => Either::Left(ready(Ok(refused.into_http()))),
        }
    }
}
