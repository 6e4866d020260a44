//! What is looked at after a step: the new connections, held against `zdd status` and `zdd explain`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::acts::{House, Show};
use super::scene::V2;
use super::verdict::Step;
use crate::rig::Zdd;
use crate::traffic::ShortRecord;

impl Show<'_> {
    /// Watches the connections that begin from `from_us` on for a while and holds them against status and explain.
    pub(super) fn observe(&mut self, house: &House<'_>, from_us: u64) -> Result<()> {
        self.pause(self.pace.window);
        let to_us = house.load.now_us();
        let status = self.cli()?.status()?;
        house.stage.told(&status);
        let web = service(&status, "web")?;
        let v2 = version(web, "v2")?;
        let (asked, table_share) = (number(v2, "asked")?, number(v2, "share")?);
        if (asked - self.asked / 100.0).abs() > 1e-6 {
            self.found.problems.push(format!(
                "v2 was asked to take {} %, status says {:.4} %",
                self.asked,
                asked * 100.0
            ));
        }
        // Answers take a moment: what began within the window has ended after it.
        self.pause(Duration::from_millis(100));
        let (share, records) = {
            let ledger = house.load.ledger();
            (ledger.share(V2, from_us, to_us), ledger.begun(from_us, to_us).copied().collect::<Vec<_>>())
        };
        let clients_off_explain = self.clients_off_explain(&records)?;
        self.found.steps.push(Step {
            asked,
            table_share,
            observed: share.share,
            n: share.n,
            clients_off_explain,
            group: 1.0 / number(web, "groups")?.max(1.0),
        });
        house.view.say(&format!(
            "    v2: asked {:.2} %, in the table {:.3} %, observed {:.2} % of {} new connections; {clients_off_explain} off explain",
            asked * 100.0,
            table_share * 100.0,
            share.share * 100.0,
            share.n
        ));
        Ok(())
    }

    /// How many clients (under affinity `flow`: of as many sampled connections) met another version than `explain` names.
    fn clients_off_explain(&self, records: &[ShortRecord]) -> Result<u64> {
        let zdd = self.cli()?;
        let clients = usize::from(self.options.clients);
        // Tuple to ask for, and the versions seen.
        let mut seen: BTreeMap<(IpAddr, u16), Vec<u8>> = BTreeMap::new();
        if self.options.affinity.by_client() {
            for record in records {
                // Port 9 is nobody's: the answer is about the client, not about a flow with an entry.
                seen.entry((record.client, 9)).or_default().push(record.place.version);
            }
        } else {
            let step = (records.len() / clients.max(1)).max(1);
            for record in records.iter().step_by(step).take(clients) {
                seen.entry((record.client, record.port)).or_default().push(record.place.version);
            }
        }
        let mut off = 0;
        for ((client, port), versions) in &seen {
            let said = self.explain(&zdd, "web", *client, *port)?;
            let Some(expected) = self.scene.fleet.version(&said) else {
                bail!("explain names an unknown version {said}")
            };
            off += u64::from(versions.iter().any(|v| *v != expected));
        }
        Ok(off)
    }

    pub(super) fn explain(&self, zdd: &Zdd, service: &str, client: IpAddr, port: u16) -> Result<String> {
        let from = std::net::SocketAddr::new(client, port).to_string();
        let said = zdd.json(&["explain", service, "--from", &from])?;
        said["version"]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("explain names no version: {said}"))
    }
}

/// The service of that name in a status.
pub(super) fn service<'v>(status: &'v Value, name: &str) -> Result<&'v Value> {
    named(&status["services"], name)
}

/// The version of that name in a service.
pub(super) fn version<'v>(service: &'v Value, name: &str) -> Result<&'v Value> {
    named(&service["versions"], name)
}

fn named<'v>(list: &'v Value, name: &str) -> Result<&'v Value> {
    let found = list.as_array().and_then(|all| all.iter().find(|v| v["name"] == name));
    found.with_context(|| format!("status has no {name:?}: {list}"))
}

fn number(value: &Value, key: &str) -> Result<f64> {
    value[key].as_f64().with_context(|| format!("status has no number {key:?}: {value}"))
}
