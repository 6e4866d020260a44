//! The server: our service, reflection and the standard health service on one [`Socket`].

use std::future::Future;
use std::time::Duration;

use futures::stream;
use tokio::sync::watch;
use tonic::transport::Server;

pub use super::socket::{BindError, Socket};
use super::{pb, service};
use crate::control::Handle;

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

/// Serves until `shutdown` is ready: then no call is taken any more, open streams end, and calls under way are answered within
/// a short grace.
///
/// # Errors
/// When the server cannot be set up or its transport fails.
pub async fn serve(
    socket: Socket,
    handle: Handle,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let (close, closing) = watch::channel(false);
    let control =
        pb::control_server::ControlServer::new(service::Control { handle, closing: closing.clone() });
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<pb::control_server::ControlServer<service::Control>>().await;

    let connections = stream::unfold(&socket, |socket| async move {
        loop {
            match socket.accept().await {
                Ok(stream) => return Some((Ok::<_, std::io::Error>(stream), socket)),
                Err(error) => {
                    tracing::warn!(%error, "a connection to the API could not be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    });
    let shutdown = async move {
        shutdown.await;
        close.send_replace(true);
    };
    let mut closed = closing;
    let overdue = async move {
        drop(closed.wait_for(|closing| *closing).await);
        tokio::time::sleep(GRACE).await;
    };
    let server = Server::builder()
        .add_service(control)
        .add_service(reflection)
        .add_service(health)
        .serve_with_incoming_shutdown(connections, shutdown);
    tokio::select! {
        ended = server => Ok(ended?),
        // Somebody keeps a call or a health watch open; it is cut off.
        () = overdue => Ok(()),
    }
}
