//! Settings below /proc/sys, of the network namespace of the calling thread.

use std::fs;
use std::str::FromStr;

/// A setting, if it is there and has this form.
pub(crate) fn read<T: FromStr>(key: &str) -> Option<T> {
    fs::read_to_string(format!("/proc/sys/{key}")).ok()?.trim().parse().ok()
}

/// A setting of an interface as the kernel combines it with that of `all` (Documentation/networking/ip-sysctl.rst): either of them for
/// a switch, the larger one for rp_filter, which is the same thing for 0 and 1.
pub(crate) fn of_interface(interface: &str, name: &str) -> Option<u32> {
    let own: u32 = read(&format!("net/ipv4/conf/{interface}/{name}"))?;
    Some(own.max(read(&format!("net/ipv4/conf/all/{name}")).unwrap_or(0)))
}
