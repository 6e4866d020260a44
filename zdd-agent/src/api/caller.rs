//! Who is at the other end of a connection, as the kernel or a certificate says it.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The other end of a connection. What it may do is for [`Policy`](super::roles::Policy) to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A process on this host, over the unix socket: what the kernel says of it.
    Local {
        /// Effective user id when it connected.
        uid: u32,
        /// All of its group ids.
        gids: Vec<u32>,
        /// Process id; by the time it is read somebody else's, perhaps.
        pid: Option<i32>,
    },
    /// Somebody with a certificate of a known authority, over TCP.
    Remote {
        /// Where from.
        address: SocketAddr,
        /// The certificate's subject.
        subject: String,
        /// `cn:`, `dns:`, `uri:`, `email:` and `ip:` names in it.
        names: Vec<String>,
    },
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Local { uid, pid: Some(pid), .. } => write!(f, "uid {uid}, pid {pid}"),
            Caller::Local { uid, pid: None, .. } => write!(f, "uid {uid}"),
            Caller::Remote { address, subject, names } if subject.is_empty() => {
                write!(f, "certificate {} from {}", names.join(", "), address.ip())
            }
            Caller::Remote { address, subject, .. } => {
                write!(f, "certificate {subject} from {}", address.ip())
            }
        }
    }
}

impl Caller {
    /// The other end of a unix socket.
    ///
    /// # Errors
    /// When the kernel does not say whose it is.
    pub(super) fn local(stream: &tokio::net::UnixStream) -> std::io::Result<Caller> {
        let peer = stream.peer_cred()?;
        let mut gids = groups(stream);
        gids.push(peer.gid());
        gids.sort_unstable();
        gids.dedup();
        Ok(Caller::Local { uid: peer.uid(), gids, pid: peer.pid() })
    }

    /// Whoever showed this certificate, which was verified before. `None`: it cannot be read.
    pub(super) fn remote(address: SocketAddr, certificate: &[u8]) -> Option<Caller> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let subject = certificate.subject();
        let common = subject.iter_common_name().filter_map(|name| name.as_str().ok());
        let mut names: Vec<String> = common.map(|name| format!("cn:{name}")).collect();
        if let Ok(Some(others)) = certificate.subject_alternative_name() {
            names.extend(others.value.general_names.iter().filter_map(name));
        }
        Some(Caller::Remote { address, subject: subject.to_string(), names })
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(format!("dns:{name}")),
        GeneralName::URI(name) => Some(format!("uri:{name}")),
        GeneralName::RFC822Name(name) => Some(format!("email:{name}")),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| format!("ip:{}", std::net::Ipv4Addr::from(b))),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| format!("ip:{}", std::net::Ipv6Addr::from(b))),
            _ => None,
        },
        _ => None,
    }
}

/// Supplementary groups of the other end: SO_PEERGROUPS, since Linux 4.13. None where the kernel does not say.
fn groups(stream: &tokio::net::UnixStream) -> Vec<u32> {
    /// NGROUPS_MAX of the kernel.
    const MOST: usize = 65_536;
    let mut gids = vec![0u32; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(size_of_val(gids.as_slice())).unwrap_or(0);
        // SAFETY: the buffer is valid for `bytes` bytes, and the kernel writes at most as many.
        let got = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                gids.as_mut_ptr().cast(),
                &mut bytes,
            )
        };
        let needed = bytes as usize / size_of::<u32>();
        if got == 0 {
            gids.truncate(needed);
            return gids;
        }
        let small = std::io::Error::last_os_error().raw_os_error() == Some(libc::ERANGE);
        if !small || needed <= gids.len() || needed > MOST {
            return Vec::new();
        }
        gids.resize(needed, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_says_who_is_at_the_other_end() {
        let (one, _other) = tokio::net::UnixStream::pair().unwrap();
        let Caller::Local { uid, gids, pid } = Caller::local(&one).unwrap() else { panic!("not local") };
        // SAFETY: these have no preconditions and cannot fail.
        let own = unsafe { (libc::geteuid(), libc::getegid()) };
        assert_eq!((uid, pid), (own.0, Some(std::process::id() as i32)));
        let mut expected = vec![own.1];
        let mut groups = [0; 1024];
        // SAFETY: the buffer has room for as many as are asked for.
        let count = unsafe { libc::getgroups(1024, groups.as_mut_ptr()) };
        expected.extend(&groups[..count as usize]);
        expected.sort_unstable();
        expected.dedup();
        assert_eq!(gids, expected);
    }

    #[test]
    fn every_kind_of_name_in_a_certificate_is_read() {
        let mut params = rcgen::CertificateParams::new(["ci.example.com".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "deploy");
        params.subject_alt_names.extend([
            rcgen::SanType::URI("spiffe://example.com/deploy".try_into().unwrap()),
            rcgen::SanType::Rfc822Name("on-call@example.com".try_into().unwrap()),
            rcgen::SanType::IpAddress("10.0.0.7".parse().unwrap()),
            rcgen::SanType::IpAddress("2001:db8::7".parse().unwrap()),
        ]);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let caller = Caller::remote("10.0.0.9:5".parse().unwrap(), certificate.der()).unwrap();
        insta::assert_snapshot!(caller, @"certificate CN=deploy from 10.0.0.9");
        let Caller::Remote { names, .. } = caller else { panic!("not remote") };
        insta::assert_snapshot!(names.join(" "), @"cn:deploy dns:ci.example.com uri:spiffe://example.com/deploy email:on-call@example.com ip:10.0.0.7 ip:2001:db8::7");
        assert_eq!(Caller::remote("10.0.0.9:5".parse().unwrap(), b"nonsense"), None);
    }
}
