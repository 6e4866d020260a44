//! Which clients a share is.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use zdd_agent::api::client::Client;
use zdd_tests::rig::{Result, client_address};
use zdd_tests::traffic::{Fleet, Ledger};
use zdd_tests::world::World;
use zdd_tests::world::status::{number, version};

/// Addresses in use.
pub const CLIENTS: usize = 100;

/// The clients whose new connections go to v2 when it has `weight` %: asked of the agent, with that weight in force for a moment.
pub fn who_gets(world: &World, weight: u32) -> Result<BTreeSet<IpAddr>> {
    world.zdd().run(&["shift", "web", &format!("v2={weight}%")])?;
    let given = number(version(&world.status()?, "web", "v2"), "share");
    let one_group = 1.0 / f64::from(world.setup.cells);
    assert!((given - f64::from(weight) / 100.0).abs() < one_group, "{given} of all cells, not {weight} %");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let clients = runtime.block_on(async {
        let mut agent = Client::connect(world.zdd().socket()).await.expect("the agent answers");
        let mut clients = BTreeSet::new();
        for client in (0..CLIENTS).map(|i| IpAddr::from(client_address(i))) {
            // Port 9 is nobody's: the answer is about the client, not about a flow with an entry.
            let said =
                agent.explain("web", SocketAddr::new(client, 9), None, false).await.expect("an answer");
            if said.version.as_deref() == Some("v2") {
                clients.insert(client);
            }
        }
        clients
    });
    world.zdd().run(&["shift", "web", "v2=0%"])?;
    Ok(clients)
}

/// The clients that were answered by v2, or not at all, since `from_us`.
pub fn affected(ledger: &Ledger, fleet: &Fleet, from_us: u64) -> BTreeSet<IpAddr> {
    let v2 = fleet.version("v2").expect("it has backends");
    let met = ledger.begun(from_us, u64::MAX).filter(|short| short.place.version == v2);
    met.map(|short| short.client).chain(ledger.harmed.iter().copied()).collect()
}
