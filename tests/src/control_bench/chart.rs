//! How everything grows: one small plot each, both axes logarithmic, so that a straight line at 45 degrees is linear growth.

use std::fmt::Write as _;

use super::report::Growth;

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 240.0;
const COLUMNS: usize = 3;
/// Room for labels: left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (70.0, 46.0, 24.0, 36.0);

/// An SVG document.
pub(super) fn draw(all: &[Growth]) -> String {
    let rows = all.len().div_ceil(COLUMNS).max(1);
    let (width, height) = (WIDTH * COLUMNS as f64, HEIGHT * rows as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for (index, growth) in all.iter().enumerate() {
        let at = ((index % COLUMNS) as f64 * WIDTH, (index / COLUMNS) as f64 * HEIGHT);
        plot(&mut svg, growth, at);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Decades that hold all values.
fn decades(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|value| *value > 0.0)
        .map(f64::log10)
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    let (low, high) = (low.floor(), high.ceil());
    (low, if high > low { high } else { low + 1.0 })
}

fn plot(svg: &mut String, growth: &Growth, (left, top): (f64, f64)) {
    let (x0, x1) = decades(growth.points.iter().map(|point| point.0));
    let (y0, y1) = decades(growth.points.iter().map(|point| point.1));
    let (l, t, r, b) = MARGIN;
    let x = |value: f64| left + l + (value.log10() - x0) / (x1 - x0) * (WIDTH - l - r);
    let y = |value: f64| top + HEIGHT - b - (value.log10() - y0) / (y1 - y0) * (HEIGHT - t - b);
    let text = |svg: &mut String, at: (f64, f64), anchor: &str, words: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{words}</text>",
            at.0, at.1
        );
    };
    text(svg, (left + 8.0, top + 18.0), "start", &format!("{} by {}", growth.case, growth.of));
    text(
        svg,
        (left + 8.0, top + 33.0),
        "start",
        &format!("{}, exponent {:.2}", growth.slope, growth.exponent),
    );
    for (axis, from, to) in [(true, x0, x1), (false, y0, y1)] {
        for power in from as i32..=to as i32 {
            let value = 10f64.powi(power);
            let ends = if axis {
                text(svg, (x(value), top + HEIGHT - b + 15.0), "middle", &format!("1e{power}"));
                (x(value), top + t, x(value), top + HEIGHT - b)
            } else {
                text(svg, (left + l - 6.0, y(value) + 4.0), "end", &growth.unit.show(value));
                (left + l, y(value), left + WIDTH - r, y(value))
            };
            let _ = writeln!(
                svg,
                "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#dddddd\"/>",
                ends.0, ends.1, ends.2, ends.3
            );
        }
    }
    let line: Vec<String> = growth.points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#1f6fb2\" stroke-width=\"2\"/>",
        line.join(" ")
    );
    for point in &growth.points {
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"#1f6fb2\"/>",
            x(point.0),
            y(point.1)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_bench::Unit;

    #[test]
    fn every_growth_is_drawn_within_the_page() {
        let one = |case: &str| Growth {
            case: case.into(),
            of: "cells".into(),
            unit: Unit::Seconds,
            points: vec![(1e3, 2e-4), (1e5, 2e-2)],
            exponent: 1.0,
            slope: "linear",
        };
        let svg = draw(&[one("a"), one("b"), one("c"), one("d")]);
        assert_eq!(svg.matches("<polyline").count(), 4);
        for word in svg.split("cx=\"").skip(1) {
            let x: f64 = word.split('"').next().and_then(|x| x.parse().ok()).expect("a number");
            assert!((0.0..=WIDTH * COLUMNS as f64).contains(&x), "{x}");
        }
    }
}
