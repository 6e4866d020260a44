//! Rigs for tests and the demo: network namespaces, traffic, processes.
//!
//! - [`rig`]: namespaces, wires and processes that vanish when dropped, on a signal, and after a crash.
//! - [`apps`]: an application with real databases, for backends.
//! - [`traffic`]: servers and clients that count what broke, moved or failed.
//! - [`checker`]: small worlds around `steer` and the agent's rules, every state of them.
//! - [`control_bench`]: what planning, publishing, sweeping, starting and probing cost, and the maps' memory.
//! - [`demo`]: the demo's acts, live view, chart and verdict.
//! - [`sim`]: whole balancers over millions of flows: what breaks with us, with a hash, with an LRU table.
//! - [`ratio`]: what the balancer costs, against plain forwarding.
//! - [`bench`]: what a packet costs, beside floors of its own, by BPF_PROG_TEST_RUN.
//! - [`bpf`]: running programs on frames, and maps in memory.
//! - [`browser`]: headless Chromium in a namespace, for what people see of a page.
//! - [`terminal`]: `zdd top` in a terminal, for what people see of it.
//! - [`certs`]: a certificate authority for tests.
//! - [`world`]: all of it together with an agent, for tests that do something to a running service.

pub mod apps;
pub mod bench;
pub mod bpf;
pub mod browser;
pub mod certs;
pub mod checker;
pub mod control_bench;
pub mod demo;
pub mod ratio;
pub mod rig;
pub mod sim;
pub mod terminal;
pub mod traffic;
pub mod world;
