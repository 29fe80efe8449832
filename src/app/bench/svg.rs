//! A picture of a report: the speed-up of each group with its interval, and the cost of rows.
//!
//! Written by hand: two charts of lines and rectangles are less text than a drawing library's settings.

use std::fmt::Write as _;

use super::report::{Cost, Group, Report};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 30.0;
/// Colours that people with any kind of colour vision tell apart (Okabe and Ito, 2008).
const COLOURS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];

/// The picture as an SVG document.
pub(crate) fn picture(report: &Report) -> String {
    let mut body = String::new();
    let mut top = 20.0;
    if report.groups.iter().any(|group| group.mode != "plain") {
        top = speedups(&report.groups, top, &mut body) + 30.0;
    }
    if !report.cost.is_empty() {
        top = curves(&report.cost, top, &mut body) + 20.0;
    }
    let caption =
        format!("{} ({}), aded {}", report.model.file, report.model.quant, report.build["aded"].as_str().unwrap_or(""));
    text(&mut body, LEFT, top + 8.0, "start", 11.0, "#555", &caption);
    let height = top + 24.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

/// Bars of all groups and modes but plain, with their intervals. Gives the lower end.
fn speedups(groups: &[Group], top: f64, out: &mut String) -> f64 {
    let mut modes: Vec<&str> = Vec::new();
    let mut categories: Vec<&str> = Vec::new();
    for group in groups.iter().filter(|group| group.mode != "plain") {
        if !modes.contains(&group.mode.as_str()) {
            modes.push(&group.mode);
        }
        if !categories.contains(&group.category.as_str()) {
            categories.push(&group.category);
        }
    }
    let most = groups.iter().map(|group| group.speedup_ci95[1].max(group.speedup)).fold(1.0, f64::max);
    let step = nice_step(most, 8.0);
    let end = (most / step).ceil() * step;
    let scale = (WIDTH - LEFT - RIGHT) / end;
    let x = |value: f64| LEFT + value * scale;
    text(out, LEFT, top, "start", 14.0, "#000", "Decode speed-up over plain decoding, with 95 % interval");
    let mut legend = LEFT;
    for (mode, colour) in modes.iter().zip(COLOURS.iter().cycle()) {
        rect(out, legend, top + 12.0, 12.0, 12.0, colour);
        text(out, legend + 17.0, top + 22.0, "start", 12.0, "#000", mode);
        legend += 40.0 + 7.5 * mode.len() as f64;
    }
    let (bar, gap) = (14.0, 10.0);
    let first = top + 36.0;
    let bottom = first + categories.len() as f64 * (bar * modes.len() as f64 + gap);
    let mut value = 0.0;
    while value <= end + 1e-9 {
        let is_one = (value - 1.0).abs() < 1e-9;
        line(out, x(value), first - 4.0, x(value), bottom, if is_one { "#000" } else { "#ddd" });
        text(out, x(value), bottom + 16.0, "middle", 11.0, "#000", &format!("{}x", number(value)));
        value += step;
    }
    // Plain decoding, where no step falls on it.
    line(out, x(1.0), first - 4.0, x(1.0), bottom, "#000");
    let mut y = first;
    for category in categories {
        text(out, LEFT - 8.0, y + bar * modes.len() as f64 / 2.0 + 4.0, "end", 12.0, "#000", category);
        for (mode, colour) in modes.iter().zip(COLOURS.iter().cycle()) {
            if let Some(group) = groups.iter().find(|group| group.category == category && group.mode == *mode) {
                rect(out, LEFT, y + 1.0, group.speedup * scale, bar - 2.0, colour);
                let middle = y + bar / 2.0;
                let [low, high] = group.speedup_ci95;
                line(out, x(low), middle, x(high), middle, "#000");
                line(out, x(low), middle - 3.0, x(low), middle + 3.0, "#000");
                line(out, x(high), middle - 3.0, x(high), middle + 3.0, "#000");
                let label = format!("{:.2}", group.speedup);
                text(out, LEFT + 5.0, middle + 4.0, "start", 10.0, "#fff", &label);
            }
            y += bar;
        }
        y += gap;
    }
    bottom + 20.0
}

/// One line for each context, mode and kernels. Gives the lower end.
fn curves(cost: &[Cost], top: f64, out: &mut String) -> f64 {
    let mut kinds: Vec<(Option<&str>, usize, &str)> = Vec::new();
    for entry in cost {
        let kind = (entry.mode.as_deref(), entry.used_cells, entry.kernels.as_str());
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let most_rows = cost.iter().map(|entry| entry.rows).max().unwrap_or(1) as f64;
    let most_ms = cost.iter().map(|entry| entry.ms).fold(0.0, f64::max);
    let (steps_x, steps_y) = (nice_step(most_rows, 8.0).max(1.0), nice_step(most_ms, 6.0));
    let (end_x, end_y) = (most_rows, (most_ms / steps_y).ceil().max(1.0) * steps_y);
    let (first, height) = (top + 16.0, 260.0);
    let bottom = first + height;
    let width = WIDTH - LEFT - 240.0;
    let x = |rows: f64| LEFT + (rows - 1.0) / (end_x - 1.0).max(1.0) * width;
    let y = |ms: f64| bottom - ms / end_y * height;
    text(out, LEFT, top, "start", 14.0, "#000", "Milliseconds of a round by its rows");
    let mut value = 0.0;
    while value <= end_y + 1e-9 {
        line(out, LEFT, y(value), LEFT + width, y(value), "#ddd");
        text(out, LEFT - 8.0, y(value) + 4.0, "end", 11.0, "#000", &format!("{} ms", number(value)));
        value += steps_y;
    }
    let mut rows = 1.0;
    while rows <= end_x {
        text(out, x(rows), bottom + 16.0, "middle", 11.0, "#000", &number(rows));
        rows = if rows == 1.0 && steps_x > 1.0 { steps_x } else { rows + steps_x };
    }
    for (place, (kind, colour)) in kinds.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let mut points: Vec<(usize, f64)> = cost
            .iter()
            .filter(|entry| (entry.mode.as_deref(), entry.used_cells, entry.kernels.as_str()) == *kind)
            .map(|entry| (entry.rows, entry.ms))
            .collect();
        points.sort_unstable_by_key(|point| point.0);
        let path: Vec<String> =
            points.iter().map(|&(rows, ms)| format!("{:.1},{:.1}", x(rows as f64), y(ms))).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for (rows, ms) in points {
            let _ =
                writeln!(out, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\" fill=\"{colour}\"/>", x(rows as f64), y(ms));
        }
        let (mode, cells, kernels) = kind;
        let name = format!("{}{kernels}, {cells} cells", mode.map_or_else(String::new, |mode| format!("{mode}, ")));
        let at = first + 14.0 + 18.0 * place as f64;
        rect(out, LEFT + width + 20.0, at - 9.0, 12.0, 12.0, colour);
        text(out, LEFT + width + 38.0, at + 1.0, "start", 12.0, "#000", &name);
    }
    bottom + 24.0
}

/// A step of 1, 2 or 5 times a power of ten that gives about `n` steps up to `most`.
fn nice_step(most: f64, n: f64) -> f64 {
    let raw = (most / n).max(1e-9);
    let power = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= raw).unwrap_or(raw)
}

/// Without digits that say nothing.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, size: f64, fill: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"{fill}\">{text}</text>"
    );
}

fn rect(out: &mut String, x: f64, y: f64, width: f64, height: f64, fill: &str) {
    let _ =
        writeln!(out, "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>");
}

fn line(out: &mut String, x1: f64, y1: f64, x2: f64, y2: f64, stroke: &str) {
    let _ = writeln!(out, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{stroke}\"/>");
}

#[cfg(test)]
mod tests {
    use super::super::output::tests::report;
    use super::*;

    #[test]
    fn the_picture_holds_every_group_and_nothing_that_breaks_it() {
        let mut report = report();
        report.model.file = "<a & b>.gguf".into();
        let svg = picture(&report);
        for group in &report.groups {
            assert!(svg.contains(&format!(">{}</text>", group.category)));
        }
        assert!(svg.contains("&lt;a &amp; b&gt;.gguf") && !svg.contains("NaN") && !svg.contains("inf"));
        assert_eq!(svg.matches("<polyline").count(), 2);
        report.groups.clear();
        report.cost.clear();
        assert!(picture(&report).ends_with("</svg>\n"));
    }
}
