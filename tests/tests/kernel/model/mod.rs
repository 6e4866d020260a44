//! The host's model decides like the kernel: the same frames, the same changes, and everything compared to the last bit.

mod random;
mod reach;
mod traffic;
mod twin;
mod world;

pub use random::Random;
use twin::Twin;
use world::World;
use zdd_common::reason::{REASONS, Reason};

use crate::rig;

/// Frames of a normal run; the environment variable ZDD_FRAMES says how many instead.
const FRAMES: u64 = 200_000;
/// The environment variable ZDD_SEED begins elsewhere.
const SEED: u64 = 1;

fn setting(name: &str, otherwise: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return otherwise };
    text.parse().unwrap_or_else(|error| panic!("{name} = {text:?}: {error}"))
}

#[test]
fn kernel_and_model_agree_on_random_frames() {
    let (frames, seed) = (setting("ZDD_FRAMES", FRAMES), setting("ZDD_SEED", SEED));
    let started = std::time::Instant::now();
    rig::with(|rig| {
        let mut random = Random(seed);
        let mut twin = Twin::new(rig);
        let mut world = World::build(&mut twin, &mut random);
        for number in 0..frames {
            if random.chance(5) {
                world.change(&mut twin, &mut random);
            }
            let (link, frame, from) = traffic::frame(&mut random);
            twin.run(link, &frame, from, || {
                format!("seed {seed}, frame {number}, by {link:?}: {frame:02x?}")
            });
            if number % 1000 == 0 {
                twin.compare_all();
            }
        }
        twin.compare_all();
        let told = &twin.told;
        println!(
            "{} frames, seed {seed}, {:.1} s; the clock stepped during {}, {} of them read both times",
            told.frames,
            started.elapsed().as_secs_f32(),
            told.stepped,
            told.synced
        );
        for reason in REASONS {
            println!("{:>20} {}", reason.name(), told.reasons.get(reason).copied().unwrap_or_default());
        }
        for (name, n) in twin.signals() {
            println!("{name:>24} {n}");
        }
        let reached = reach::reached(&told.by_backend);
        for ((reason, way), n) in &reached {
            println!("{reason}@{way} {n}");
        }
        // Agreement about what never came is worth nothing. Test frames always have room in front, and the model has both parts
        // always: a row shows what becomes of a frame that has no room, and of one without the second part. Asked of the seed that is
        // always run: another one may be short of something by chance, and `cargo xtask frames` shows the sums of many.
        let asked = seed == SEED && frames >= FRAMES;
        let possible =
            REASONS.iter().filter(|reason| !matches!(reason, Reason::DropNoHeadroom | Reason::PassOdd));
        let never: Vec<_> = possible.filter(|reason| !told.reasons.contains_key(reason)).collect();
        assert!(!asked || never.is_empty(), "no frame ended in {never:?}");
        let rare = reach::rare(&reached);
        assert!(!asked || rare.is_empty(), "too few frames of {rare:?}");
    });
}
