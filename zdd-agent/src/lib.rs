//! The agent and command line of zdd.

pub mod admission;
pub mod agent;
pub mod alert;
pub mod api;
pub mod audit;
pub mod capacity;
pub mod chance;
pub mod cli;
pub mod clock;
pub mod cohort;
pub mod config;
pub mod control;
pub mod dataplane;
pub mod desired;
pub mod doctor;
pub mod events;
pub mod health;
pub mod http;
pub mod http_client;
pub mod journal;
pub mod links;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod neighbour;
pub mod notify;
pub mod otlp;
pub mod page;
pub mod plan;
pub mod prefix;
pub mod preview;
pub mod privileges;
pub mod program;
pub mod reconcile;
pub mod redact;
pub mod report;
pub mod rollout;
mod rows;
pub mod seccomp;
pub mod shutdown;
pub mod signals;
pub mod state;
pub mod store;
pub mod text;
pub mod tls;
pub mod trace;
pub mod weights;

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn sources(dir: &Path, all: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() { sources(&path, all) } else { all.push(path) }
        }
    }

    #[test]
    fn only_the_dataplane_knows_the_kernel_library() {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut all = Vec::new();
        sources(&src, &mut all);
        let library = ["ay", "a::"].concat();
        let outside: Vec<_> = all
            .iter()
            .filter(|path| !path.starts_with(src.join("dataplane")))
            .filter(|path| std::fs::read_to_string(path).unwrap().contains(&library))
            .collect();
        assert!(all.len() > 50 && outside.is_empty(), "{outside:?}");
    }
}
