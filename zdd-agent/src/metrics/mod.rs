//! Prometheus metrics on a loopback address.
//!
//! Nothing is counted here: the kernel counts, the agent copies its values into a [`MetricsSnapshot`] when somebody
//! asks, [`families`] gives them names and [`server`] serves them.

mod families;
mod server;
mod snapshot;

pub use families::{CONTENT_TYPE, encode};
pub use server::{MetricsError, MetricsServer, Source};
pub use snapshot::{
    BackendMetrics, FlowMetrics, InterfaceMetrics, MetricsSnapshot, ReasonMetrics, ServiceMetrics, SnatMetrics,
    VersionMetrics,
};
