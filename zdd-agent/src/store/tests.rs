//! The state file against crashes, bit rot and other builds.

use super::*;

/// A directory that goes away with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("zdd-store-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        Dir(path)
    }

    fn say(&self, error: &StoreError) -> String {
        error.to_string().replace(&self.0.display().to_string(), "DIR")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn saved(name: &str) -> (Dir, Store) {
    let dir = Dir::new(name);
    let store = Store::open(&dir.0).unwrap();
    store.save(&vec!["web".to_owned(), "v1".to_owned()]).unwrap();
    (dir, store)
}

fn refusal(dir: &Dir, store: &Store) -> String {
    dir.say(&store.load::<Vec<String>>().unwrap_err())
}

#[test]
fn what_was_saved_is_loaded_and_the_one_before_is_kept() {
    let dir = Dir::new("roundtrip");
    let store = Store::open(&dir.0).unwrap();
    assert_eq!(store.load::<u32>().unwrap(), None);
    for state in 1..=3u32 {
        store.save(&state).unwrap();
        assert_eq!(Store::open(&dir.0).unwrap().load::<u32>().unwrap(), Some(state));
    }
    fs::copy(dir.0.join("state.json.bak"), store.path()).unwrap();
    assert_eq!(store.load::<u32>().unwrap(), Some(2));
}

/// A kill while it is written leaves a file without a header, or without an end.
#[test]
fn a_writing_that_was_not_finished_is_none() {
    let (dir, store) = saved("unfinished");
    let before = store.load::<Vec<String>>().unwrap();
    let news = vec!["7".repeat(100_000)];
    store.stage(&news).unwrap();
    let staged = fs::read_dir(&dir.0).unwrap().map(|entry| entry.unwrap().path());
    let staged = staged.into_iter().find(|path| path.to_string_lossy().contains(".new.")).unwrap();
    let whole = fs::read(&staged).unwrap();
    let header = whole.iter().position(|&byte| byte == b'\n').unwrap();
    assert!(whole[..header].starts_with(b"{\"format\":\"zdd-state\""));
    for unfinished in [
        // Nothing of the header is there before all of the body is.
        [&vec![b' '; header][..], &whole[header..]].concat(),
        [&vec![b' '; header][..], &whole[header..header + 100]].concat(),
        // The disk has the header and lost the end of the body.
        whole[..whole.len() - 1].to_vec(),
    ] {
        fs::write(&staged, unfinished).unwrap();
        assert_eq!(Store::open(&dir.0).unwrap().load::<Vec<String>>().unwrap(), before);
    }
    fs::write(&staged, whole).unwrap();
    assert_eq!(Store::open(&dir.0).unwrap().load::<Vec<String>>().unwrap(), Some(news));
}

#[test]
fn every_truncation_is_refused() {
    let (_dir, store) = saved("every-truncation");
    let whole = fs::read(store.path()).unwrap();
    for len in 0..whole.len() {
        fs::write(store.path(), &whole[..len]).unwrap();
        assert!(
            matches!(store.load::<Vec<String>>(), Err(StoreError::Corrupt { .. })),
            "{len} bytes were taken"
        );
    }
}

#[test]
fn every_flipped_bit_of_the_body_is_refused() {
    let (_dir, store) = saved("every-bit");
    let whole = fs::read(store.path()).unwrap();
    let body = whole.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    for at in body..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            fs::write(store.path(), &bytes).unwrap();
            assert!(store.load::<Vec<String>>().is_err(), "byte {at} bit {bit} was taken");
        }
    }
}

#[test]
fn a_truncated_file_says_the_way_out() {
    let (dir, store) = saved("truncated");
    let whole = fs::read(store.path()).unwrap();
    fs::write(store.path(), &whole[..whole.len() - 4]).unwrap();
    insta::assert_snapshot!(refusal(&dir, &store), @"
    DIR/state.json cannot be used: it was written with 12 bytes and has 8
    help: restore the state before it with `cp DIR/state.json.bak DIR/state.json`, or give up weights and drains set by command: `zdd detach`, remove the file, start again
    ");
    fs::write(store.path(), "").unwrap();
    insta::assert_snapshot!(refusal(&dir, &store), @"
    DIR/state.json cannot be used: it is empty
    help: restore the state before it with `cp DIR/state.json.bak DIR/state.json`, or give up weights and drains set by command: `zdd detach`, remove the file, start again
    ");
}

#[test]
fn a_changed_file_says_the_way_out() {
    let (dir, store) = saved("changed");
    let text = fs::read_to_string(store.path()).unwrap();
    fs::write(store.path(), text.replace("v1", "v2")).unwrap();
    insta::assert_snapshot!(refusal(&dir, &store), @"
    DIR/state.json cannot be used: its checksum is 30fdc7fc, it was written with 32bb79a5
    help: restore the state before it with `cp DIR/state.json.bak DIR/state.json`, or give up weights and drains set by command: `zdd detach`, remove the file, start again
    ");
}

#[test]
fn a_newer_file_says_the_way_out() {
    let (dir, store) = saved("newer");
    let text = fs::read_to_string(store.path()).unwrap();
    fs::write(store.path(), text.replace("\"version\":3", "\"version\":4")).unwrap();
    insta::assert_snapshot!(refusal(&dir, &store), @"
    DIR/state.json has layout 4, this build reads 3
    help: run the build of zdd that wrote it, restore an older state with `cp DIR/state.json.bak DIR/state.json`, or start afresh: `zdd detach`, remove the file, start again
    ");
}

#[test]
fn the_layout_before_is_read_and_the_one_before_that_is_not() {
    let (_dir, store) = saved("older");
    let text = fs::read_to_string(store.path()).unwrap();
    let of = |layout: u32| {
        fs::write(store.path(), text.replace("\"version\":3", &format!("\"version\":{layout}"))).unwrap();
        store.load::<Vec<String>>()
    };
    assert_eq!(of(2).unwrap().unwrap(), ["web", "v1"]);
    assert!(matches!(of(1), Err(StoreError::OtherVersion { found: 1, .. })));
}

#[test]
fn a_file_of_somebody_else_says_the_way_out() {
    let (dir, store) = saved("foreign");
    fs::write(store.path(), "[agent]\n").unwrap();
    insta::assert_snapshot!(refusal(&dir, &store), @"
    DIR/state.json cannot be used: its first line is not a header (expected value at line 1 column 2)
    help: restore the state before it with `cp DIR/state.json.bak DIR/state.json`, or give up weights and drains set by command: `zdd detach`, remove the file, start again
    ");
}

#[test]
fn a_lost_file_is_not_a_fresh_start() {
    let (dir, store) = saved("lost");
    store.save(&["again"]).unwrap();
    fs::remove_file(store.path()).unwrap();
    insta::assert_snapshot!(refusal(&dir, &store), @"
    DIR/state.json is missing, but DIR/state.json.bak is there
    help: restore it with `cp DIR/state.json.bak DIR/state.json`, or remove it too to start afresh
    ");
}

#[test]
fn a_failed_save_leaves_the_state_before() {
    let (dir, store) = saved("failed");
    // A directory in the way of the new file: refused also for root.
    fs::create_dir(dir.0.join("state.json.new.2")).unwrap();
    let error = store.save(&["never"]).unwrap_err();
    insta::assert_snapshot!(dir.say(&error), @"
    cannot write DIR/state.json.new.2: Is a directory (os error 21)
    help: the state before is untouched; make room or fix the permissions of agent.state_dir, then repeat
    ");
    fs::remove_dir(dir.0.join("state.json.new.2")).unwrap();
    assert_eq!(store.load::<Vec<String>>().unwrap().unwrap(), ["web", "v1"]);
}

#[test]
#[ignore = "a measurement: cargo test --release -p zdd-agent store -- --ignored --nocapture"]
fn how_long_a_save_takes() {
    let dir = Dir::new("time");
    let store = Store::open(&dir.0).unwrap();
    for groups in [0usize, 16_384, 131_072] {
        let state: Vec<u8> = (0..groups).map(|at| (at % 3) as u8).collect();
        let mut took: Vec<_> = (0..101)
            .map(|_| {
                let start = std::time::Instant::now();
                store.save(&state).unwrap();
                start.elapsed()
            })
            .collect();
        took.sort();
        println!("{groups} groups: median {:?}, worst {:?}", took[50], took[100]);
    }
}

#[test]
fn what_is_staged_is_what_a_start_takes_and_settling_puts_it_in_place() {
    let dir = Dir::new("staged");
    let store = Store::open(&dir.0).unwrap();
    store.save(&1u32).unwrap();
    store.stage(&2u32).unwrap();
    store.stage(&3u32).unwrap();
    // Killed here, and started again.
    let again = Store::open(&dir.0).unwrap();
    assert_eq!(again.load::<u32>().unwrap(), Some(3));
    assert!(again.staged());
    again.settle().unwrap();
    let names =
        || fs::read_dir(&dir.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(
        !again.staged() && !names().any(|name| name.contains(".new")),
        "{:?}",
        names().collect::<Vec<_>>()
    );
    assert_eq!(Store::open(&dir.0).unwrap().load::<u32>().unwrap(), Some(3));
    fs::copy(dir.0.join("state.json.bak"), again.path()).unwrap();
    assert_eq!(again.load::<u32>().unwrap(), Some(1), "2 was never in its place");
}

#[test]
fn a_staged_file_that_was_cut_is_passed_over_and_one_of_another_build_is_not() {
    let (dir, store) = saved("staged-cut");
    let whole = fs::read_to_string(store.path()).unwrap();
    let staged = dir.0.join("state.json.new.2");
    for length in 0..whole.len() {
        fs::write(&staged, &whole[..length]).unwrap();
        assert_eq!(store.load::<Vec<String>>().unwrap().unwrap(), ["web", "v1"], "cut at {length}");
    }
    // What is written next takes its place.
    store.save(&["web", "v2"]).unwrap();
    assert_eq!(Store::open(&dir.0).unwrap().load::<Vec<String>>().unwrap().unwrap(), ["web", "v2"]);
    fs::write(&staged, whole.replace("\"version\":3", "\"version\":4")).unwrap();
    assert!(matches!(store.load::<Vec<String>>(), Err(StoreError::OtherVersion { found: 4, .. })));
}

#[test]
fn what_is_staged_while_another_thread_settles_is_never_lost_and_nothing_is_left_behind() {
    let dir = Dir::new("staged-while");
    let store = Store::open(&dir.0).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                store.settle().unwrap();
            }
        });
        for state in 1..=300u32 {
            store.stage(&state).unwrap();
            // What a start after a kill at this moment takes; a file may change places while it is looked for.
            let seen = || Store::open(&dir.0).unwrap().load::<u32>().ok().flatten();
            assert!((0..50).any(|_| seen() == Some(state)), "{state} is lost");
        }
        done.store(true, Ordering::Relaxed);
    });
    store.settle().unwrap();
    assert_eq!(Store::open(&dir.0).unwrap().load::<u32>().unwrap(), Some(300));
    let left = fs::read_dir(&dir.0).unwrap().count();
    assert_eq!(left, 2, "state.json and its backup");
}

#[test]
fn a_name_that_a_loss_of_power_brings_back_does_not_bring_the_state_back() {
    let dir = Dir::new("staged-again");
    let store = Store::open(&dir.0).unwrap();
    store.stage(&1u32).unwrap();
    let staged = fs::read(dir.0.join("state.json.new.1")).unwrap();
    store.settle().unwrap();
    store.save(&2u32).unwrap();
    fs::write(dir.0.join("state.json.new.1"), staged).unwrap();
    let again = Store::open(&dir.0).unwrap();
    assert_eq!(again.load::<u32>().unwrap(), Some(2));
    again.save(&3u32).unwrap();
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 2);
}

#[test]
fn a_staged_file_of_an_agent_without_numbers_is_taken_and_settled() {
    let (dir, store) = saved("staged-before");
    let whole = fs::read_to_string(store.path()).unwrap();
    let bare = whole.replace(",\"number\":1", "");
    assert_ne!(bare, whole);
    fs::write(store.path(), &bare).unwrap();
    let body = "[\"web\",\"v9\"]";
    let crc = crc32fast::hash(body.as_bytes());
    let header =
        format!("{{\"format\":\"zdd-state\",\"version\":2,\"len\":{},\"crc32\":{crc}}}\n", body.len());
    fs::write(dir.0.join("state.json.new"), header + body).unwrap();
    let again = Store::open(&dir.0).unwrap();
    assert_eq!(again.load::<Vec<String>>().unwrap().unwrap(), ["web", "v9"]);
    again.settle().unwrap();
    assert!(!again.staged() && !dir.0.join("state.json.new").exists());
    assert_eq!(Store::open(&dir.0).unwrap().load::<Vec<String>>().unwrap().unwrap(), ["web", "v9"]);
    again.save(&["web", "v10"]).unwrap();
    assert_eq!(Store::open(&dir.0).unwrap().load::<Vec<String>>().unwrap().unwrap(), ["web", "v10"]);
}
