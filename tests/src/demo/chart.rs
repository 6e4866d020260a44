//! The chart: new and live connections per version over time, with everything that was done marked. Pure text.

use std::fmt::Write;

use super::stage::{Event, Sample};

/// What to draw.
#[derive(Clone, Copy, Debug)]
pub struct Chart<'a> {
    /// First line.
    pub title: &'a str,
    /// Second line.
    pub subtitle: &'a str,
    /// Names of the two versions.
    pub versions: [&'a str; 2],
    /// In order of time.
    pub samples: &'a [Sample],
    /// In order of time.
    pub events: &'a [Event],
}

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 60.0;
/// Top of the first panel: room for titles and slanted labels.
const TOP: f64 = 190.0;
const PANEL: f64 = 200.0;
const BETWEEN: f64 = 60.0;
const HEIGHT: f64 = TOP + PANEL + BETWEEN + PANEL + 60.0;
/// Two labels nearer than this would write over each other.
const LABEL_GAP: f64 = 21.0;
/// Distinct also to people who see colours differently.
const COLOURS: [&str; 2] = ["#3b6ea8", "#e07b25"];

/// A linear scale from data to pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scale {
    data: (f64, f64),
    pixels: (f64, f64),
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let span = self.data.1 - self.data.0;
        let part = if span == 0.0 { 0.0 } else { (value - self.data.0) / span };
        self.pixels.0 + part * (self.pixels.1 - self.pixels.0)
    }
}

/// A step of 1, 2 or 5 times a power of ten that cuts `0..=max` into at most `parts`.
fn nice_step(max: f64, parts: f64) -> f64 {
    if max <= 0.0 {
        return 1.0;
    }
    let raw = max / parts;
    let power = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw - 1e-9).unwrap_or(10.0 * power)
}

/// Multiples of a nice step from 0 up to the first that is not below `max`.
fn ticks(max: f64, parts: f64) -> Vec<f64> {
    let step = nice_step(max, parts);
    let mut all = vec![0.0];
    while all.last().is_some_and(|last| *last < max - 1e-9) {
        #[expect(clippy::cast_precision_loss, reason = "a dozen ticks")]
        all.push(all.len() as f64 * step);
    }
    all
}

/// X positions for labels: each as near to its wish as keeping `gap` from the one before allows, never beyond `max` if they fit.
fn spread(wishes: &[f64], gap: f64, max: f64) -> Vec<f64> {
    let mut places: Vec<f64> = Vec::with_capacity(wishes.len());
    for wish in wishes {
        places.push(places.last().map_or(*wish, |last| wish.max(last + gap)));
    }
    // Pushed over the edge: back from the right.
    let mut limit = max;
    for place in places.iter_mut().rev() {
        *place = place.min(limit);
        limit = *place - gap;
    }
    places
}

/// The chart as SVG.
pub fn render(chart: &Chart<'_>) -> String {
    let end = chart.samples.last().map_or(1.0, |s| seconds(s.at_us)).max(1.0);
    let x = Scale { data: (0.0, end), pixels: (LEFT, WIDTH - RIGHT) };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"30\" font-size=\"20\" font-weight=\"bold\">{}</text>",
        escape(chart.title)
    );
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"52\" fill=\"#555\">{}</text>", escape(chart.subtitle));
    legend(&mut svg, chart);
    let second = TOP + PANEL + BETWEEN;
    events(&mut svg, chart, x, second + PANEL);
    panel(&mut svg, chart, x, TOP, "new connections per second", |s| s.new_per_s);
    panel(&mut svg, chart, x, second, "long-lived connections", |s| s.live_long.map(f64::from));
    for tick in ticks(end, 12.0).into_iter().filter(|t| *t <= end) {
        let (px, y) = (x.at(tick), second + PANEL);
        let _ =
            writeln!(svg, "<text x=\"{px:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick} s</text>", y + 18.0);
    }
    svg.push_str("</svg>\n");
    svg
}

fn seconds(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn legend(svg: &mut String, chart: &Chart<'_>) {
    for (i, (name, colour)) in chart.versions.iter().zip(COLOURS).enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "two versions")]
        let x = WIDTH - RIGHT - 140.0 + 80.0 * i as f64;
        let _ = writeln!(svg, "<rect x=\"{x}\" y=\"18\" width=\"22\" height=\"12\" fill=\"{colour}\"/>");
        let _ = writeln!(svg, "<text x=\"{}\" y=\"29\" font-size=\"14\">{}</text>", x + 28.0, escape(name));
    }
}

fn events(svg: &mut String, chart: &Chart<'_>, x: Scale, bottom: f64) {
    let wishes: Vec<f64> = chart.events.iter().map(|e| x.at(seconds(e.at_us))).collect();
    // Slanted labels run to the right; the last must end within the picture.
    let places = spread(&wishes, LABEL_GAP, WIDTH - RIGHT);
    for ((event, at), label) in chart.events.iter().zip(&wishes).zip(&places) {
        let foot = TOP - 14.0;
        let _ = writeln!(
            svg,
            "<polyline points=\"{label:.1},{foot:.1} {at:.1},{TOP} {at:.1},{bottom}\" fill=\"none\" stroke=\"#999\" stroke-dasharray=\"3 3\"/>"
        );
        let _ = writeln!(
            svg,
            "<text x=\"{label:.1}\" y=\"{:.1}\" transform=\"rotate(-50 {label:.1} {:.1})\">{}</text>",
            foot - 3.0,
            foot - 3.0,
            escape(&event.label)
        );
    }
}

fn panel(
    svg: &mut String,
    chart: &Chart<'_>,
    x: Scale,
    top: f64,
    name: &str,
    value: impl Fn(&Sample) -> [f64; 2],
) {
    let max = chart.samples.iter().flat_map(&value).fold(0.0, f64::max);
    let ticks = ticks(max, 5.0);
    let y = Scale { data: (0.0, ticks.last().copied().unwrap_or(1.0).max(1.0)), pixels: (top + PANEL, top) };
    for tick in &ticks {
        let py = y.at(*tick);
        let (from, to) = x.pixels;
        let _ = writeln!(
            svg,
            "<line x1=\"{from}\" y1=\"{py:.1}\" x2=\"{to}\" y2=\"{py:.1}\" stroke=\"#e4e4e4\"/>"
        );
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
            from - 8.0,
            py + 4.0
        );
    }
    let (from, to) = x.pixels;
    let bottom = top + PANEL;
    let _ = writeln!(
        svg,
        "<polyline points=\"{from},{top} {from},{bottom} {to},{bottom}\" fill=\"none\" stroke=\"#444\"/>"
    );
    let middle = top + PANEL / 2.0;
    let _ = writeln!(
        svg,
        "<text x=\"20\" y=\"{middle}\" transform=\"rotate(-90 20 {middle})\" text-anchor=\"middle\" fill=\"#555\">{}</text>",
        escape(name)
    );
    for (i, colour) in COLOURS.iter().enumerate() {
        let points: Vec<String> = chart
            .samples
            .iter()
            .map(|s| format!("{:.1},{:.1}", x.at(seconds(s.at_us)), y.at(value(s)[i])))
            .collect();
        let (Some(first), Some(last)) = (chart.samples.first(), chart.samples.last()) else { continue };
        let line = points.join(" ");
        let (a, b) = (x.at(seconds(first.at_us)), x.at(seconds(last.at_us)));
        let _ = writeln!(
            svg,
            "<polygon points=\"{a:.1},{bottom} {line} {b:.1},{bottom}\" fill=\"{colour}\" fill-opacity=\"0.12\"/>"
        );
        let _ = writeln!(
            svg,
            "<polyline points=\"{line}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_maps_ends_to_ends() {
        let scale = Scale { data: (0.0, 10.0), pixels: (100.0, 0.0) };
        assert_eq!([0.0, 5.0, 10.0].map(|v| scale.at(v)), [100.0, 50.0, 0.0]);
        let empty = Scale { data: (3.0, 3.0), pixels: (7.0, 9.0) };
        assert!((empty.at(3.0) - 7.0).abs() < f64::EPSILON);
    }

    #[test]
    fn ticks_are_round_and_reach_the_maximum() {
        assert_eq!(ticks(500.0, 5.0), [0.0, 100.0, 200.0, 300.0, 400.0, 500.0]);
        assert_eq!(ticks(7.0, 5.0), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(ticks(0.0, 5.0), [0.0]);
        for max in [0.3, 1.0, 17.0, 99.0, 101.0, 12_345.0] {
            let all = ticks(max, 5.0);
            assert!(all.len() <= 6 && all[all.len() - 1] >= max - 1e-9, "{max}: {all:?}");
        }
    }

    #[test]
    fn labels_keep_their_distance_and_stay_inside() {
        assert_eq!(spread(&[10.0, 12.0, 50.0], 15.0, 100.0), [10.0, 25.0, 50.0]);
        assert_eq!(spread(&[90.0, 98.0, 99.0], 15.0, 100.0), [70.0, 85.0, 100.0]);
        assert!(spread(&[], 15.0, 100.0).is_empty());
    }

    #[test]
    fn every_event_is_written_and_text_is_escaped() {
        let samples = [1u64, 2, 3].map(|s| Sample {
            at_us: s * 1_000_000,
            new_per_s: [100.0, 0.0],
            live_long: [5, 1],
            ..Sample::default()
        });
        let events = [
            Event { at_us: 1_000_000, label: "1 < 2 & 3".into() },
            Event { at_us: 1_000_001, label: "kill -9".into() },
        ];
        let svg = render(&Chart {
            title: "t",
            subtitle: "s",
            versions: ["v1", "v2"],
            samples: &samples,
            events: &events,
        });
        assert!(svg.contains("1 &lt; 2 &amp; 3") && svg.contains("kill -9") && svg.ends_with("</svg>\n"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn no_samples_make_an_empty_chart() {
        let svg =
            render(&Chart { title: "t", subtitle: "s", versions: ["v1", "v2"], samples: &[], events: &[] });
        assert!(!svg.contains("NaN"), "{svg}");
    }
}
