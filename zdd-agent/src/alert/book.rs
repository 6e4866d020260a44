//! What is wrong, since when, and what was told to whom. Pure: time is an argument, in milliseconds since 1970, because the book
//! outlives the agent.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::spec::AlertSpec;
use super::trouble::{Kind, Trouble};

/// What is gone for so long is over. Shorter gaps are one and the same trouble, also while an agent that has just started finds
/// out what is the matter.
const OVER_AFTER_MS: u64 = 10_000;
/// A message that was not taken is sent again after this.
const RETRY_MS: u64 = 10_000;

/// One trouble.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What.
    pub kind: Kind,
    /// Where.
    pub labels: Vec<(String, String)>,
    /// As it was last seen.
    pub summary: String,
    /// When it was first seen.
    pub since_ms: u64,
    /// When it was last seen.
    pub seen_ms: u64,
    /// It is over since then.
    pub ended_ms: Option<u64>,
    /// By the receivers' names.
    pub told: BTreeMap<String, Told>,
}

/// What a receiver was told of one trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// When, or when it was tried.
    pub at_ms: u64,
    /// The message said that it is over.
    pub over: bool,
    /// The message was taken. If not, it may have been all the same: a kill came between.
    pub taken: bool,
}

/// All troubles that are not over, or whose end somebody still has to hear of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// By [`Trouble::id`].
    pub entries: BTreeMap<String, Entry>,
}

impl Book {
    /// Takes in what is wrong now. True: something began or ended, and the book is to be kept.
    pub fn observe(&mut self, troubles: &[Trouble], now_ms: u64) -> bool {
        let mut news = false;
        for trouble in troubles {
            let entry = self.entries.entry(trouble.id()).or_insert_with(|| {
                news = true;
                Entry {
                    kind: trouble.kind,
                    labels: trouble
                        .labels
                        .iter()
                        .map(|(name, value)| ((*name).to_owned(), value.clone()))
                        .collect(),
                    summary: String::new(),
                    since_ms: now_ms,
                    seen_ms: now_ms,
                    ended_ms: None,
                    told: BTreeMap::new(),
                }
            });
            if entry.ended_ms.take().is_some() {
                // It is back before everybody heard of its end: the same one for those who have not, a new one for the others.
                entry.told.retain(|_, told| !told.over);
                news = true;
            }
            entry.seen_ms = now_ms;
            entry.summary.clone_from(&trouble.summary);
        }
        for entry in self.entries.values_mut().filter(|entry| entry.ended_ms.is_none()) {
            // A clock that was set back ends nothing.
            if now_ms.saturating_sub(entry.seen_ms) >= OVER_AFTER_MS {
                entry.ended_ms = Some(now_ms);
                news = true;
            }
        }
        news
    }

    /// The troubles that a receiver is to be told of now, at the most so many.
    pub fn due(&self, receiver: &AlertSpec, now_ms: u64, most: usize) -> Vec<String> {
        let due = |entry: &Entry| {
            let told = entry.told.get(&receiver.name);
            // A clock that was set back must not silence anybody.
            let ago = |told: &Told| if told.at_ms > now_ms { u64::MAX } else { now_ms - told.at_ms };
            match (entry.ended_ms, told) {
                (None, None) => receiver.wants(entry.kind),
                (None, Some(told)) if !told.taken => ago(told) >= RETRY_MS,
                (None, Some(told)) => ago(told) >= ms(receiver.repeat),
                (Some(_), None) => false,
                (Some(_), Some(told)) if !told.over => true,
                (Some(_), Some(told)) => !told.taken && ago(told) >= RETRY_MS,
            }
        };
        self.entries.iter().filter(|(_, entry)| due(entry)).map(|(id, _)| id.clone()).take(most).collect()
    }

    /// A message with these is on its way. To be kept before it is sent.
    pub fn trying(&mut self, receiver: &str, ids: &[String], now_ms: u64) {
        self.note(receiver, ids, |over| Told { at_ms: now_ms, over, taken: false });
    }

    /// It was taken.
    pub fn taken(&mut self, receiver: &str, ids: &[(String, bool)], now_ms: u64) {
        for (id, over) in ids {
            if let Some(entry) = self.entries.get_mut(id) {
                // If it came back or ended while the message was on its way, the next one says so.
                entry.told.insert(receiver.to_owned(), Told { at_ms: now_ms, over: *over, taken: true });
            }
        }
    }

    fn note(&mut self, receiver: &str, ids: &[String], told: impl Fn(bool) -> Told) {
        for id in ids {
            if let Some(entry) = self.entries.get_mut(id) {
                entry.told.insert(receiver.to_owned(), told(entry.ended_ms.is_some()));
            }
        }
    }

    /// Forgets what everybody who heard of it knows to be over. Receivers that are no longer there are not waited for.
    pub fn tidy(&mut self, receivers: &[AlertSpec]) {
        let there = |name: &String| receivers.iter().any(|receiver| receiver.name == *name);
        for entry in self.entries.values_mut() {
            entry.told.retain(|name, _| there(name));
        }
        self.entries.retain(|_, entry| {
            entry.ended_ms.is_none() || entry.told.values().any(|told| !(told.over && told.taken))
        });
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::spec::Channel;
    use super::*;
    use crate::redact::Url;

    const S: u64 = 1000;

    fn receiver(name: &str) -> AlertSpec {
        AlertSpec {
            name: name.into(),
            channel: Channel::Webhook(Url("http://10.0.0.9/".into())),
            tls: Default::default(),
            repeat: Duration::from_secs(60),
            timeout: Duration::from_secs(10),
            only: Vec::new(),
            labels: BTreeMap::new(),
        }
    }

    fn down() -> Vec<Trouble> {
        vec![Trouble::new(Kind::BackendDown, [("backend", "10.1.0.1:80".to_owned())], "refused")]
    }

    /// Tells everything that is due, and how many of it are over.
    fn tell(book: &mut Book, receiver: &AlertSpec, now: u64) -> (usize, usize) {
        let ids = book.due(receiver, now, 100);
        book.trying(&receiver.name, &ids, now);
        let over = |id: &String| book.entries[id].ended_ms.is_some();
        let ids: Vec<(String, bool)> = ids.iter().map(|id| (id.clone(), over(id))).collect();
        book.taken(&receiver.name, &ids, now);
        book.tidy(std::slice::from_ref(receiver));
        (ids.len(), ids.iter().filter(|(_, over)| *over).count())
    }

    #[test]
    fn a_trouble_is_told_once_again_after_the_repeat_and_when_it_is_over() {
        let (mut book, ops) = (Book::default(), receiver("ops"));
        assert!(book.observe(&down(), S));
        assert_eq!(tell(&mut book, &ops, S), (1, 0));
        for second in 2..60 {
            assert!(!book.observe(&down(), second * S));
            assert_eq!(tell(&mut book, &ops, second * S), (0, 0));
        }
        book.observe(&down(), 61 * S);
        assert_eq!(tell(&mut book, &ops, 61 * S), (1, 0));
        assert!(!book.observe(&[], 70 * S), "a short gap ends nothing");
        assert!(book.observe(&[], 71 * S));
        assert_eq!(tell(&mut book, &ops, 71 * S), (1, 1));
        assert_eq!(book, Book::default());
    }

    #[test]
    fn a_kill_tells_nothing_twice_and_forgets_no_end() {
        let (mut book, ops) = (Book::default(), receiver("ops"));
        book.observe(&down(), S);
        tell(&mut book, &ops, S);
        let saved = serde_json::to_string(&book).unwrap();
        let mut book: Book = serde_json::from_str(&saved).unwrap();
        book.observe(&down(), 5 * S);
        assert_eq!(tell(&mut book, &ops, 5 * S), (0, 0), "still firing, still known");
        let mut book: Book = serde_json::from_str(&saved).unwrap();
        book.observe(&[], 30 * S);
        assert_eq!(tell(&mut book, &ops, 30 * S), (1, 1), "it ended while nobody looked");

        // A kill between trying and the answer: nobody knows whether it was taken, so it is sent again, and so is its end.
        let mut book = Book::default();
        book.observe(&down(), S);
        book.trying("ops", &book.due(&ops, S, 100), S);
        let mut book: Book = serde_json::from_str(&serde_json::to_string(&book).unwrap()).unwrap();
        book.observe(&[], 20 * S);
        assert_eq!(tell(&mut book, &ops, 20 * S), (1, 1));
    }

    #[test]
    fn what_was_not_taken_is_tried_again_and_what_nobody_heard_of_ends_in_silence() {
        let (mut book, ops) = (Book::default(), receiver("ops"));
        book.observe(&down(), S);
        book.trying("ops", &book.due(&ops, S, 100), S);
        assert_eq!(book.due(&ops, 2 * S, 100), [] as [String; 0]);
        assert_eq!(book.due(&ops, 11 * S, 100).len(), 1);

        let mut book = Book::default();
        book.observe(&down(), S);
        book.observe(&[], 20 * S);
        assert_eq!(tell(&mut book, &ops, 20 * S), (0, 0));
        assert_eq!(book, Book::default());
    }

    #[test]
    fn one_that_comes_back_is_a_new_one_for_those_who_heard_of_its_end() {
        let (a, b) = (receiver("a"), receiver("b"));
        let mut book = Book::default();
        book.observe(&down(), S);
        for of in [&a, &b] {
            let ids = book.due(of, S, 100);
            book.taken(&of.name, &[(ids[0].clone(), false)], S);
        }
        book.observe(&[], 20 * S);
        let ids = book.due(&a, 20 * S, 100);
        book.taken("a", &[(ids[0].clone(), true)], 20 * S);
        assert!(book.observe(&down(), 21 * S));
        assert_eq!((book.due(&a, 21 * S, 100).len(), book.due(&b, 21 * S, 100).len()), (1, 0));
    }

    #[test]
    fn a_clock_that_is_set_back_neither_ends_nor_silences_anything() {
        let (mut book, ops) = (Book::default(), receiver("ops"));
        book.observe(&down(), 1_000 * S);
        tell(&mut book, &ops, 1_000 * S);
        assert!(!book.observe(&[], S));
        book.observe(&down(), S);
        assert_eq!(tell(&mut book, &ops, S), (1, 0));
    }

    #[test]
    fn a_receiver_hears_only_what_it_wants() {
        let mut book = Book::default();
        book.observe(&down(), S);
        let mut ops = receiver("ops");
        ops.only = vec![Kind::Detached];
        assert_eq!(book.due(&ops, S, 100).len(), 0);
    }
}
