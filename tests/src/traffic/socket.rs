//! Client sockets with a chosen source address.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use tokio::net::{TcpSocket, TcpStream};

/// Connects from `source` and a port that the kernel picks for this peer alone (otherwise 60,000 ports would have to do for all).
pub async fn connect(source: IpAddr, target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    let on: libc::c_int = 1;
    // Works for both families: ipv6_setsockopt hands this level to ip_setsockopt.
    // SAFETY: the descriptor is open, the option value is a live int of the given size.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            libc::socklen_t::try_from(size_of_val(&on)).expect("4 fits"),
        )
    };
    if set != 0 {
        return Err(std::io::Error::last_os_error());
    }
    socket.bind(SocketAddr::new(source, 0))?;
    socket.set_nodelay(true)?;
    socket.connect(target).await
}
