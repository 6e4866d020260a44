//! Freeze windows: times in which no rollout takes a step up. Pure; the time is an argument.
//!
//! A window is read as `FROM to TO`, each end a weekday and time (`fri 16:00 to mon 08:00`, every week), a time (`22:00 to
//! 06:00`, every day) or a date, with or without a time (`2026-12-20 to 2027-01-06`, once). Its end belongs to it no more. Times are
//! those on the wall in a time zone of the IANA database, so a change to summer time moves no window against the clock on the wall.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::{DateTime, Time, Weekday};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::text::Unreadable;

/// All windows of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// Name in the IANA time zone database.
    pub zone: String,
    /// In the order of the file.
    pub windows: Vec<Window>,
}

impl Default for Windows {
    fn default() -> Self {
        Windows { zone: "UTC".to_owned(), windows: Vec::new() }
    }
}

/// One of them, in local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Window {
    /// Every week; minutes since Monday 00:00.
    Weekly(u16, u16),
    /// Every day; minutes since 00:00.
    Daily(u16, u16),
    /// Once.
    Once(DateTime, DateTime),
}

const DAY: u16 = 24 * 60;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// One end of a window.
enum End {
    Weekly(u16),
    Daily(u16),
    /// A date without a time begins at its first instant, and ends after its last.
    Once(DateTime, bool),
}

fn minutes(time: Time) -> u16 {
    // 0 to 23 and 0 to 59.
    time.hour() as u16 * 60 + time.minute() as u16
}

fn end(text: &str) -> Option<End> {
    let time = |text: &str| {
        let (hour, minute) = text.split_once(':')?;
        let whole = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        if !whole(hour) || !whole(minute) {
            return None;
        }
        Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
    };
    match text.split_once(char::is_whitespace) {
        Some((day, at)) => {
            let at = time(at.trim())?;
            let day_of_week = DAYS.iter().position(|name| *name == day.to_ascii_lowercase());
            match day_of_week {
                Some(day) => Some(End::Weekly(day as u16 * DAY + minutes(at))),
                None => Some(End::Once(day.parse::<jiff::civil::Date>().ok()?.to_datetime(at), false)),
            }
        }
        None => match time(text) {
            Some(at) => Some(End::Daily(minutes(at))),
            None => {
                Some(End::Once(text.parse::<jiff::civil::Date>().ok()?.to_datetime(Time::midnight()), true))
            }
        },
    }
}

impl Window {
    /// Reads a window.
    ///
    /// # Errors
    /// What is wrong, with an example.
    pub fn parse(text: &str) -> Result<Window, Unreadable> {
        let wrong = |why: &str| {
            Unreadable(format!(
                "`{text}` is no window: {why}; write \"fri 16:00 to mon 08:00\", \"22:00 to 06:00\" or \"2026-12-20 to 2027-01-06\""
            ))
        };
        let (from, to) = text.split_once(" to ").ok_or_else(|| wrong("there is no ` to ` in it"))?;
        let read =
            |part: &str| end(part.trim()).ok_or_else(|| wrong(&format!("`{}` is no time", part.trim())));
        let window = match (read(from)?, read(to)?) {
            (End::Weekly(from), End::Weekly(to)) => Window::Weekly(from, to),
            (End::Daily(from), End::Daily(to)) => Window::Daily(from, to),
            (End::Once(from, _), End::Once(to, day)) => {
                let past = || wrong("its end is past the last date there is");
                let to = if day { to.tomorrow().map_err(|_| past())? } else { to };
                if to < from {
                    return Err(wrong("it ends before it begins"));
                }
                Window::Once(from, to)
            }
            _ => return Err(wrong("its two ends are of different kinds")),
        };
        match window {
            Window::Weekly(from, to) | Window::Daily(from, to) if from == to => {
                Err(wrong("it ends where it begins"))
            }
            Window::Once(from, to) if from == to => Err(wrong("it ends where it begins")),
            window => Ok(window),
        }
    }

    fn holds(&self, at: DateTime) -> bool {
        let within = |from: u16, to: u16, now: u16| {
            // The other way round it goes over the end of the week or the day.
            if from < to { (from..to).contains(&now) } else { !(to..from).contains(&now) }
        };
        let minute = minutes(at.time());
        match *self {
            Window::Weekly(from, to) => {
                within(from, to, at.weekday().to_monday_zero_offset() as u16 * DAY + minute)
            }
            Window::Daily(from, to) => within(from, to, minute),
            Window::Once(from, to) => (from..to).contains(&at),
        }
    }
}

/// As it is written.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        let weekly = |at: u16| {
            let day = Weekday::from_monday_zero_offset((at / DAY) as i8)
                .map_or(0, |day| usize::from(day.to_monday_zero_offset() as u8));
            format!("{} {}", DAYS[day], time(at % DAY))
        };
        let once = |at: &DateTime| at.strftime("%Y-%m-%d %H:%M").to_string();
        match self {
            Window::Weekly(from, to) => write!(f, "{} to {}", weekly(*from), weekly(*to)),
            Window::Daily(from, to) => write!(f, "{} to {}", time(*from), time(*to)),
            Window::Once(from, to) => write!(f, "{} to {}", once(from), once(to)),
        }
    }
}

impl Windows {
    /// Checks the name of a time zone.
    ///
    /// # Errors
    /// It is in no database.
    pub fn known_zone(name: &str) -> Result<String, Unreadable> {
        TimeZone::get(name).map(|_| name.to_owned()).map_err(|_| {
            Unreadable(format!(
                "`{name}` is no time zone; write one of the IANA database, as \"Europe/Berlin\", or \"UTC\""
            ))
        })
    }

    /// Which window it is in, in words; `None`: in none.
    pub fn inside(&self, now: Timestamp) -> Option<String> {
        if self.windows.is_empty() {
            return None;
        }
        // Checked when it was read. Gone from the database since, its windows hold by UTC rather than not at all.
        let zone = TimeZone::get(&self.zone).unwrap_or(TimeZone::UTC);
        let at = now.to_zoned(zone).datetime();
        let window = self.windows.iter().find(|window| window.holds(at))?;
        Some(format!("freeze window {window} ({})", self.zone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(windows: &[&str], zone: &str, now: &str) -> bool {
        let windows = windows.iter().map(|text| Window::parse(text).unwrap()).collect();
        Windows { zone: zone.to_owned(), windows }.inside(now.parse().unwrap()).is_some()
    }

    #[test]
    fn a_weekend_goes_over_the_end_of_the_week() {
        let weekend = ["fri 16:00 to mon 08:00"];
        // 2026-11-20 is a Friday.
        for (now, held) in [
            ("2026-11-20T15:59:59Z", false),
            ("2026-11-20T16:00:00Z", true),
            ("2026-11-22T23:59:59Z", true),
            ("2026-11-23T00:00:00Z", true),
            ("2026-11-23T07:59:59Z", true),
            ("2026-11-23T08:00:00Z", false),
            ("2026-11-25T12:00:00Z", false),
        ] {
            assert_eq!(inside(&weekend, "UTC", now), held, "{now}");
        }
    }

    #[test]
    fn a_night_goes_over_midnight_and_a_lunch_does_not() {
        for (window, now, held) in [
            ("22:00 to 06:00", "2026-11-20T21:59:59Z", false),
            ("22:00 to 06:00", "2026-11-20T22:00:00Z", true),
            ("22:00 to 06:00", "2026-11-21T05:59:59Z", true),
            ("22:00 to 06:00", "2026-11-21T06:00:00Z", false),
            ("12:00 to 13:00", "2026-11-21T12:30:00Z", true),
            ("12:00 to 13:00", "2026-11-21T13:00:00Z", false),
        ] {
            assert_eq!(inside(&[window], "UTC", now), held, "{window} {now}");
        }
    }

    #[test]
    fn dates_hold_to_the_end_of_the_last_day_and_times_to_the_minute() {
        let holidays = ["2026-12-20 to 2027-01-06"];
        for (now, held) in [
            ("2026-12-19T23:59:59Z", false),
            ("2026-12-20T00:00:00Z", true),
            ("2027-01-06T23:59:59Z", true),
            ("2027-01-07T00:00:00Z", false),
        ] {
            assert_eq!(inside(&holidays, "UTC", now), held, "{now}");
        }
        let launch = ["2026-12-01 09:30 to 2026-12-01 18:00"];
        assert!(inside(&launch, "UTC", "2026-12-01T17:59:59Z"));
        assert!(!inside(&launch, "UTC", "2026-12-01T18:00:00Z"));
        assert!(inside(&["2026-12-24 to 2026-12-24"], "UTC", "2026-12-24T12:00:00Z"), "one day");
    }

    #[test]
    fn a_window_follows_the_clock_on_the_wall_through_summer_time() {
        let morning = ["09:00 to 10:00"];
        // Berlin is one hour ahead in winter, two in summer.
        assert!(inside(&morning, "Europe/Berlin", "2026-01-15T08:30:00Z"));
        assert!(inside(&morning, "Europe/Berlin", "2026-07-15T07:30:00Z"));
        assert!(!inside(&morning, "Europe/Berlin", "2026-07-15T08:30:00Z"));
    }

    #[test]
    fn it_reads_what_it_writes_and_refuses_the_rest() {
        for text in ["fri 16:00 to mon 08:00", "22:00 to 06:00", "2026-12-01 09:30 to 2026-12-01 18:00"] {
            assert_eq!(Window::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "fri",
            "fri 16:00",
            "fri 16:00 to 08:00",
            "25:00 to 26:00",
            "9:00 to 10:00",
            "fri 24:00 to mon 08:00",
            "2026-02-30 to 2026-03-01",
            "2027-01-06 to 2026-12-20",
            "09:00 to 09:00",
            "fry 16:00 to mon 08:00",
        ] {
            let said = Window::parse(text).unwrap_err().to_string();
            assert!(said.contains("write \"fri 16:00"), "{said}");
        }
        assert!(Windows::known_zone("Mars/Olympus").unwrap_err().to_string().contains("IANA"));
    }
}
