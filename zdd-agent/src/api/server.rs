//! The server: our service, reflection and the standard health service on the [`Socket`] and over TCP.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::sync::{mpsc, watch};
use tonic::transport::Server;

use super::authorize::Authorize;
use super::ledger::Ledger;
use super::roles::Policy;
pub use super::socket::{BindError, Socket};
use super::tls::Remote;
use super::{pb, service};
use crate::control::Handle;
use crate::events::EventLog;

/// A connection that cannot be taken (no file descriptors left) is tried again after this.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A call that is under way when the server is told to end has this long.
pub const GRACE: Duration = Duration::from_secs(2);

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors built in are no descriptors: a mistake in the build.
    #[error("reflection cannot be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("the API ended: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// What a server needs besides what it listens on.
#[derive(Debug)]
pub struct Serving {
    /// The loop.
    pub handle: Handle,
    /// Who may do what.
    pub policy: Policy,
    /// Records and answers of changes.
    pub ledger: Ledger,
    /// What has happened.
    pub events: EventLog,
}

/// Serves until `shutdown` is ready: then no call is taken any more, open streams end, and calls under way are answered within
/// a short grace.
///
/// # Errors
/// When the server cannot be set up or its transport fails.
pub async fn serve(
    socket: Socket,
    remote: Option<Remote>,
    serving: Serving,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let Serving { handle, policy, ledger, events } = serving;
    let policy = Arc::new(policy);
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // The older protocol, too: it is the only one that Python's library and grpcurl before 1.8.8 speak.
    let (reflection, reflection_alpha) = (described().build_v1()?, described().build_v1alpha()?);
    let (close, closing) = watch::channel(false);
    let control = service::Control { handle, ledger, events, closing: closing.clone() };
    let control = pb::control_server::ControlServer::new(control);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<pb::control_server::ControlServer<service::Control>>().await;

    let local = stream::unfold((&socket, policy.clone()), |(socket, policy)| async move {
        loop {
            match socket.accept(&policy).await {
                Ok(connection) => return Some((connection, (socket, policy))),
                Err(error) => {
                    tracing::warn!(%error, "a connection to the API could not be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    });
    let (taken, shaken) = mpsc::channel(16);
    let accepting = remote.map(|remote| AbortOnDrop(tokio::spawn(remote.accept(taken))));
    let connections = stream::select(local, tokio_stream::wrappers::ReceiverStream::new(shaken));
    let shutdown = async move {
        shutdown.await;
        drop(accepting);
        close.send_replace(true);
    };
    let mut closed = closing;
    let overdue = async move {
        drop(closed.wait_for(|closing| *closing).await);
        tokio::time::sleep(GRACE).await;
    };
    let door = tower::layer::layer_fn(move |inner| Authorize { inner, policy: policy.clone() });
    let server = Server::builder()
        .layer(door)
        .add_service(control)
        .add_service(reflection)
        .add_service(reflection_alpha)
        .add_service(health)
        .serve_with_incoming_shutdown(connections.map(Ok::<_, std::io::Error>), shutdown);
    tokio::select! {
        ended = server => Ok(ended?),
        // Somebody keeps a call or a health watch open; it is cut off.
        () = overdue => Ok(()),
    }
}

/// Ends a task with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
