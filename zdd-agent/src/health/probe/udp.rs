//! One datagram there, one back.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;

use super::{ProbeFailure, connect_failure, excerpt, found};
use crate::health::spec::UdpCheck;

/// Bytes of an answer; what a longer one has beyond is not seen.
const ANSWER_LIMIT: usize = 4 * 1024;

pub(super) async fn ask(address: SocketAddr, check: &UdpCheck) -> Result<(), ProbeFailure> {
    let (_, answer) = exchange(address, &check.send).await?;
    if !answer.starts_with(&check.answer) {
        let why = format!("the answer is {}, expected {} first", excerpt(&answer), excerpt(&check.answer));
        return Err(ProbeFailure::Wrong(why));
    }
    if let Some(expression) = &check.matches
        && !found(expression, &answer)?
    {
        let why = format!("the answer is {}, which does not match {expression:?}", excerpt(&answer));
        return Err(ProbeFailure::Wrong(why));
    }
    Ok(())
}

/// Sends one datagram from a port of its own, and takes the first that the peer sends to it: the socket is connected, so nobody
/// else's comes in, and an ICMP error is told. The socket can take more.
pub(super) async fn exchange(
    address: SocketAddr,
    request: &[u8],
) -> Result<(UdpSocket, Vec<u8>), ProbeFailure> {
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused => ProbeFailure::Wrong("port unreachable".into()),
        _ => connect_failure(error),
    };
    let socket = UdpSocket::bind(any).await.map_err(failed)?;
    socket.connect(address).await.map_err(failed)?;
    socket.send(request).await.map_err(failed)?;
    let answer = receive(&socket).await?;
    Ok((socket, answer))
}

/// The next datagram.
pub(super) async fn receive(socket: &UdpSocket) -> Result<Vec<u8>, ProbeFailure> {
    let mut answer = vec![0; ANSWER_LIMIT];
    let length = socket.recv(&mut answer).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => ProbeFailure::Wrong("port unreachable".into()),
        _ => connect_failure(error),
    })?;
    answer.truncate(length);
    Ok(answer)
}
