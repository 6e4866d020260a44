//! The steps of a canary.

use toml::Spanned;
use toml::de::DeValue;

use super::{DAY, MOST};
use crate::config::problems::Sink;
use crate::config::reader::{At, Table, wrong_type};
use crate::config::value;
use crate::desired::FULL;
use crate::rollout::spec::Step;
use crate::text::{Unreadable, parse_duration, percent};

pub(super) fn read(table: &mut Table<'_, '_>, canary: bool, sink: &mut Sink<'_>) -> Option<Vec<Step>> {
    let example =
        "an array, as [{ weight = 1 }, { pause = \"2m\" }, { weight = 50 }, { pause = \"until-promoted\" }]";
    let items = table.array("steps", example, sink);
    if !canary {
        if let Some(items) = items {
            let help = "remove them, or write strategy = \"canary\"";
            sink.error(Some(items.span), "`steps` mean something to a canary only".to_owned(), help);
        }
        return None;
    }
    table.missing("steps", &format!("write {example}"), sink);
    let At { value: items, span } = items?;
    if items.len() > MOST {
        let message = format!("there are {} steps", items.len());
        sink.error(Some(span.clone()), message, format!("keep {MOST} at the most"));
    }
    let (mut steps, mut highest, mut whole) = (Vec::<Step>::new(), 0, true);
    for item in items {
        let Some(step) = step(item, sink) else {
            whole = false;
            continue;
        };
        if let Step::Weight(weight) = step {
            let said = percent(weight);
            if weight == 0 {
                let help = "choose more than 0; before the first weight the candidate has nothing anyway";
                sink.error(Some(item.span()), "a step of 0% is none".to_owned(), help);
            } else if weight <= highest {
                let message = format!("a weight of {said} comes after {}", percent(highest));
                let help = "let the weights rise from step to step; going back is what a rollback is for";
                sink.error(Some(item.span()), message, help);
            }
            highest = highest.max(weight);
        }
        if let Step::Cohort(name) = &step {
            if highest > 0 {
                let help = "name cohorts before the first weight: their clients go first, and then all others by their share";
                sink.error(Some(item.span()), format!("cohort `{name}` comes after a weight"), help);
            }
            if steps.contains(&step) {
                sink.error(Some(item.span()), format!("cohort `{name}` is there already"), "name it once");
            }
        }
        steps.push(step);
    }
    if whole && !steps.iter().any(|step| matches!(step, Step::Weight(_))) {
        let help = "name at least one, as { weight = 10 }";
        sink.error(Some(span), "`steps` name no weight".to_owned(), help);
    }
    whole.then_some(steps)
}

fn step(item: &Spanned<DeValue<'_>>, sink: &mut Sink<'_>) -> Option<Step> {
    let Some(fields) = item.get_ref().as_table() else {
        wrong_type("steps", item, "{ weight = 10 } or { pause = \"5m\" }", sink);
        return None;
    };
    let mut table = Table::new(fields, item.span(), "a step");
    let weight = table.percent("weight", sink);
    let pause = table.parsed("pause", sink, |text| match text {
        "until-promoted" => Ok(Step::PauseUntilPromoted),
        _ => match parse_duration(text) {
            Ok(time) if time <= 30 * DAY => Ok(Step::Pause(time)),
            Ok(_) => Err(Unreadable(format!("`{text}` is longer than 30 days; write \"until-promoted\""))),
            Err(_) => Err(Unreadable(format!("`{text}` is no pause; write \"5m\" or \"until-promoted\""))),
        },
    });
    let cohort = table.parsed("cohort", sink, |text| Ok(text.to_owned()));
    let given = [table.has("weight"), table.has("pause"), table.has("cohort")];
    table.finish(sink);
    match (given, weight, pause) {
        ([true, false, false], weight, _) => weight.map(|at| Step::Weight(at.value.min(FULL))),
        ([false, true, false], _, pause) => value(pause),
        ([false, false, true], ..) => cohort.map(|at| Step::Cohort(at.value)),
        _ => {
            let help =
                "write { cohort = \"staff\" }, { weight = 10 } or { pause = \"5m\" }, one after the other";
            let message = "a step is either a `cohort`, a `weight` or a `pause`".to_owned();
            sink.error(Some(item.span()), message, help);
            None
        }
    }
}
