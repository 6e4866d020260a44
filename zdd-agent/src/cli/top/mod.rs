//! `zdd top`: the agent's numbers on a whole screen, and the few things that one does while looking at them.

mod details;
mod model;
#[cfg(test)]
mod tests;
mod view;
#[cfg(test)]
mod width_tests;

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::Outcome;
use crate::api::client::{At, Client, ClientError};
use crate::control::Target;
use crate::report::Status;
use crate::rollout::report::RolloutReport;
use model::{Action, Effect, Key, Model};

/// Between two reports.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between two tries to reach an agent that went away.
const RETRY: Duration = Duration::from_millis(500);
/// How long the thread that reads keys waits before it looks whether it is still wanted.
const KEY_PATIENCE: Duration = Duration::from_millis(100);

/// What happens while the screen is up.
enum News {
    Report(Box<Status>),
    Rollout(String, Option<Box<RolloutReport>>),
    Lost(String),
    Pressed(Key),
    Resized,
    Interrupted,
    Prospect(Action, String),
    Done(String),
}

/// The screen; dropping it gives the terminal back as it was. A panic does so too, before it is told.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> io::Result<Screen> {
        ratatui::try_init().map(Screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows the agent at `at` until somebody quits, or SIGTERM, SIGINT or SIGHUP comes.
pub async fn run(at: &At) -> anyhow::Result<Outcome> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        anyhow::bail!(
            "`zdd top` needs a terminal for its input and output\nhelp: use `zdd status --watch` or `zdd status --json` where there is none"
        );
    }
    if std::env::var_os("TERM").is_some_and(|kind| kind == "dumb") {
        anyhow::bail!(
            "`zdd top` cannot draw on a terminal of type dumb\nhelp: use `zdd status --watch`, or set TERM to what the terminal really is"
        );
    }
    // Said before the screen is taken: a wrong socket is better told on the command line.
    let mut client = Client::connect_to(at).await?;
    let first = client.status().await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let (news, mut arriving) = mpsc::channel(64);
    let begin = Instant::now();
    let mut model = Model::default();
    model.report(first, Duration::ZERO);
    let mut screen = Screen::open()?;
    tokio::spawn(follow(at.clone(), news.clone()));
    let (choose, chosen) = watch::channel(String::new());
    tokio::spawn(follow_rollout(at.clone(), chosen, news.clone()));
    let keys = news.clone();
    std::thread::spawn(move || read_keys(&keys));
    loop {
        let chosen = model.chosen().map(|service| service.name.clone()).unwrap_or_default();
        choose.send_if_modified(|before| std::mem::replace(before, chosen.clone()) != chosen);
        screen.0.draw(|frame| view::draw(&model, frame))?;
        let one = tokio::select! {
            one = arriving.recv() => one,
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            _ = hang_up.recv() => None,
        };
        let effect = match one {
            None | Some(News::Interrupted) => break,
            Some(News::Report(status)) => {
                model.report(*status, begin.elapsed());
                Effect::None
            }
            Some(News::Rollout(service, rollout)) => {
                model.rollout_of(&service, rollout.map(|rollout| *rollout));
                Effect::None
            }
            Some(News::Lost(why)) => {
                model.lost(why);
                Effect::None
            }
            Some(News::Prospect(action, text)) => {
                model.prospect(&action, text);
                Effect::None
            }
            Some(News::Done(message)) => {
                model.message = Some(message);
                Effect::None
            }
            Some(News::Resized) => Effect::None,
            Some(News::Pressed(key)) => model.key(key),
        };
        match effect {
            Effect::None => {}
            Effect::Quit => break,
            Effect::Ask(action) => drop(tokio::spawn(ask(at.clone(), action, news.clone()))),
            Effect::Do(action) => drop(tokio::spawn(act(at.clone(), action, news.clone()))),
        }
    }
    Ok(Outcome::Done)
}

/// The first line of an error; its way out has no room here.
fn brief(error: &impl ToString) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Reports as they come; connects again, however often.
async fn follow(at: At, news: mpsc::Sender<News>) {
    loop {
        let error = match watch(&at, &news).await {
            Ok(()) => "it stops".to_owned(),
            Err(error) => brief(&error),
        };
        if news.send(News::Lost(error)).await.is_err() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn watch(at: &At, news: &mpsc::Sender<News>) -> Result<(), ClientError> {
    let mut reports = Client::connect_to(at).await?.watch_status(INTERVAL).await?;
    while let Some(report) = reports.next().await {
        if news.send(News::Report(Box::new(report?))).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The rollout of the chosen service, each time another is chosen and once in a while. Of the chosen one alone: a thousand services
/// would be a thousand questions.
async fn follow_rollout(at: At, mut chosen: watch::Receiver<String>, news: mpsc::Sender<News>) {
    loop {
        let service = chosen.borrow_and_update().clone();
        if !service.is_empty() {
            let told = match Client::connect_to(&at).await {
                Ok(mut client) => client.rollout_status(&service).await,
                Err(error) => Err(error),
            };
            // That nobody answers is told by whoever follows the status.
            let known = match told {
                Ok(rollout) => Some(Some(Box::new(rollout))),
                Err(ClientError::Refused(_)) => Some(None),
                Err(_) => None,
            };
            if let Some(rollout) = known
                && news.send(News::Rollout(service, rollout)).await.is_err()
            {
                return;
            }
        }
        match tokio::time::timeout(INTERVAL, chosen.changed()).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(_)) => return,
        }
    }
}

/// Keys until nobody wants them any more.
fn read_keys(news: &mpsc::Sender<News>) {
    while !news.is_closed() {
        match event::poll(KEY_PATIENCE) {
            Ok(false) => continue,
            Ok(true) => {}
            // The terminal is gone.
            Err(_) => return drop(news.blocking_send(News::Interrupted)),
        }
        let one = match event::read() {
            Ok(Event::Key(key)) => match meaning(key) {
                Some(one) => one,
                None => continue,
            },
            Ok(Event::Resize(..)) => News::Resized,
            Ok(_) => continue,
            Err(_) => News::Interrupted,
        };
        if news.blocking_send(one).is_err() {
            return;
        }
    }
}

fn meaning(key: KeyEvent) -> Option<News> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    // In raw mode the terminal sends no signal for it.
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return matches!(key.code, KeyCode::Char('c')).then_some(News::Interrupted);
    }
    let key = match key.code {
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    };
    Some(News::Pressed(key))
}

/// What an action would move, in a sentence.
async fn ask(at: At, action: Action, news: mpsc::Sender<News>) {
    let text = match prospect(&at, &action).await {
        Ok(text) => text,
        Err(error) => brief(&error),
    };
    // The screen is gone: nobody wants to know.
    drop(news.send(News::Prospect(action, text)).await);
}

async fn prospect(at: &At, action: &Action) -> Result<String, ClientError> {
    let mut client = Client::connect_to(at).await?;
    let (service, weights) = match action {
        Action::Shift { service, version, points } => (service, vec![(version.clone(), *points)]),
        Action::Rollback { service } => {
            let status = client.status().await?;
            let of = model::service(&status, service);
            let stable = of.and_then(|s| s.versions.first()).map(|v| v.name.clone()).unwrap_or_default();
            (service, vec![(stable, crate::desired::FULL)])
        }
        Action::Drain { .. } => return Ok("new flows go to the other versions; live ones stay".to_owned()),
        Action::Undrain { .. } => return Ok("it may take new flows again".to_owned()),
    };
    let moves = client.who_moves(service, &weights, &[], None).await?;
    let note = moves.notes.first().map(|note| format!("\n{note}")).unwrap_or_default();
    Ok(format!(
        "{:.2}% of new clients get another version; live connections stay{note}",
        moves.moved_share * 100.0
    ))
}

/// Does it, and tells what came of it.
async fn act(at: At, action: Action, news: mpsc::Sender<News>) {
    let done = match perform(&at, &action).await {
        Ok(()) => format!("done: {}", action.command()),
        Err(error) => format!("{}: {}", action.command(), brief(&error)),
    };
    // The screen is gone: nobody wants to know.
    drop(news.send(News::Done(done)).await);
}

async fn perform(at: &At, action: &Action) -> Result<(), ClientError> {
    let mut client = Client::connect_to(at).await?;
    let target = |service: &String, version: &String| Target::Version {
        service: Some(service.clone()),
        version: version.clone(),
    };
    match action {
        Action::Shift { service, version, points } => {
            client.shift(service, &[(version.clone(), *points)], false).await.map(drop)
        }
        Action::Rollback { service } => client.rollback(service, false).await.map(drop),
        Action::Drain { service, version } => client.drain(&target(service, version), None).await.map(drop),
        Action::Undrain { service, version } => client.undrain(&target(service, version)).await.map(drop),
    }
}
