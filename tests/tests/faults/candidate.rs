//! The candidate of one row: what it is made of, and how it breaks.

use zdd_tests::apps::{App, Needs};
use zdd_tests::rig::{Forward, Result};
use zdd_tests::traffic::Fault;
use zdd_tests::world::World;

use crate::Broken;

/// v2's backends.
pub const BACKENDS: [u8; 2] = [3, 4];

impl Broken {
    /// Whether it is so from the candidate's first weight on, or begins in the middle of the canary.
    pub fn at_once(self) -> bool {
        matches!(self, Broken::Refuses | Broken::Resets | Broken::Slow | Broken::Mute)
    }

    /// Whether the candidate is an application in processes of its own.
    pub fn application(self) -> bool {
        matches!(self, Broken::Dies | Broken::Database)
    }

    /// The candidate's share. One connection of twenty needs more of them to be seen within three looks.
    pub fn weight(self) -> u32 {
        if self == Broken::Resets { 50 } else { 20 }
    }

    /// What the rollout may say of it, and the kernel's counter that shows it.
    pub fn shows(self, forward: Forward) -> (&'static [&'static str], Option<&'static str>) {
        let nat = forward == Forward::Nat;
        match self {
            Broken::Refuses if nat => (&["handshake-failure-rate"], Some("backend_reset_handshake")),
            // Where replies go around us a reset is a silence.
            Broken::Refuses => (&["handshake-failure-rate", "unanswered-rate"], Some("half_open")),
            Broken::Resets if nat => (&["reset-rate", "unanswered-rate"], Some("backend_reset_early")),
            Broken::Resets => (&["unanswered-rate"], Some("unanswered")),
            Broken::Slow => (&["first-byte-time"], None),
            Broken::Mute => (&["unanswered-rate"], Some("unanswered")),
            Broken::HealthPage | Broken::Dies | Broken::Database => (&["health"], None),
        }
    }
}

/// What may break.
pub struct Candidate {
    broken: Broken,
    apps: Vec<App>,
    needs: Option<Needs>,
}

impl Candidate {
    /// Starts what the usual servers are not.
    pub fn start(world: &World, broken: Broken) -> Result<Candidate> {
        let mut candidate = Candidate { broken, apps: Vec::new(), needs: None };
        if broken.application() {
            let needs = Needs::start(world, "v2")?;
            for i in BACKENDS {
                candidate.apps.push(App::start(world, i, "v2", &needs)?);
            }
            candidate.needs = Some(needs);
        }
        Ok(candidate)
    }

    /// From now on it is broken.
    pub fn breaks(&mut self, world: &World) {
        let fault = match self.broken {
            Broken::Refuses => Fault::Refuses,
            Broken::Resets => Fault::Resets(20),
            Broken::Slow => Fault::Later(50),
            Broken::Mute => Fault::Mute,
            Broken::HealthPage => {
                for i in BACKENDS {
                    world.servers().set_health_page(&format!("b{i}"), "{\"db\": \"down\"}");
                }
                return;
            }
            Broken::Dies => return self.apps.clear(),
            Broken::Database => {
                if let Some(needs) = &mut self.needs {
                    needs.postgres.crash();
                }
                return;
            }
        };
        for i in BACKENDS {
            world.servers().set_fault(&format!("b{i}"), fault);
        }
    }
}
