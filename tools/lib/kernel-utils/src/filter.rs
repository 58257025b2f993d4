// SPDX-License-Identifier: GPL-2.0

//! Filters for lines that look like trouble and are not, in places where a test expects them.

use crate::kmsg::Line;

/// Drops the first line of each report of a data race outside VFIO, mdev and the module: the kernel has some races
/// elsewhere.
pub fn without_races_elsewhere(lines: Vec<Line>) -> Vec<Line> {
    let mut elsewhere = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if line.text.contains("BUG: KCSAN: ") {
            let report = lines[at + 1..].iter().map(|line| &line.text[..]);
            if !is_ours(report.take_while(|text| !text.ends_with("====="))) {
                elsewhere.push(at);
            }
        }
    }
    let numbered = lines.into_iter().enumerate();
    let rest = numbered.filter(|(at, _)| !elsewhere.contains(at));
    rest.map(|(_, line)| line).collect()
}

/// Returns whether VFIO, mdev or the module is among the first frames of a trace of the report.
fn is_ours<'a>(report: impl Iterator<Item = &'a str>) -> bool {
    const NEAR: usize = 4;
    let mut frames = 0;
    for text in report {
        frames += 1;
        if text.contains(" by task") || text.contains(" by interrupt") {
            frames = 0;
        }
        let ours = ["[mdma]", "[mdev]", "[vfio"];
        if frames <= NEAR && ours.iter().any(|part| text.contains(part)) {
            return true;
        }
    }
    false
}

/// Drops the heading of the trace that each OOM kill logs. A later line says whether a control group or the machine was
/// out of memory, and only the latter is trouble.
pub fn without_kills(lines: Vec<Line>) -> Vec<Line> {
    /// Most lines between the first one and the trace.
    const NEAR: usize = 20;
    let mut near = 0;
    let mut heading = |line: &Line| {
        near = match line.text.contains("invoked oom-killer: ") {
            true => NEAR,
            false => near - usize::from(near > 0),
        };
        near > 0 && line.text.trim() == "Call Trace:"
    };
    lines.into_iter().filter(|line| !heading(line)).collect()
}

/// Drops the reports of failed allocations and of the OOM killer, and the headings of their traces.
pub fn without_shortages(lines: Vec<Line>) -> Vec<Line> {
    /// Most lines between the first one and the trace.
    const NEAR: usize = 20;
    const SHORTAGES: [&str; 3] = [
        "vmalloc error: ",
        "page allocation failure: ",
        " invoked oom-killer: ",
    ];
    let mut near = 0;
    lines
        .into_iter()
        .filter(|line| {
            let text = &line.text;
            if SHORTAGES.iter().any(|shortage| text.contains(shortage)) {
                near = NEAR;
                return false;
            }
            if text.contains("kmemleak: Cannot allocate a ") {
                return false;
            }
            near -= usize::from(near > 0);
            !(near > 0 && text.trim() == "Call Trace:")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmsg::parse;

    fn line(record: &str) -> Line {
        parse(record.as_bytes()).unwrap()
    }

    #[test]
    fn shortages() {
        let lines = |texts: &[&str]| {
            texts
                .iter()
                .map(|t| line(&format!("4,1,1,-;{t}")))
                .collect()
        };
        let found = without_shortages(lines(&[
            "selftests: vmalloc error: size 4096, failed to allocate pages",
            "CPU: 0 UID: 0",
            "Call Trace:",
            " <TASK>",
        ]));
        assert!(found.iter().all(|line| !line.is_trouble()));
        let found = without_shortages(lines(&["WARNING: at x", "Call Trace:"]));
        assert_eq!(found.iter().filter(|line| line.is_trouble()).count(), 2);
    }

    #[test]
    fn kills() {
        let trouble = |end: &str| {
            let texts = [
                "fill invoked oom-killer: gfp_mask=0x1",
                "CPU: 0",
                "Call Trace:",
                end,
            ];
            let lines = texts.map(|text| line(&format!("4,1,1,-;{text}")));
            let left = without_kills(lines.into());
            left.iter().filter(|line| line.is_trouble()).count()
        };
        assert_eq!(trouble("Memory cgroup out of memory: Killed process 7"), 0);
        assert_eq!(trouble("Out of memory: Killed process 7"), 1);
        assert_eq!(trouble("WARNING: at x"), 1);
    }

    #[test]
    fn races() {
        let report = |frames: &[&str]| {
            let header = [
                "BUG: KCSAN: data-race in a / b",
                "",
                "read to 0x1 of 2 bytes by task 9 on cpu 1:",
            ];
            let texts = header.iter().chain(frames).chain(&["=========="]);
            let lines = texts.map(|text| line(&format!("3,1,1,-;{text}")));
            without_races_elsewhere(lines.collect())
                .iter()
                .any(Line::is_trouble)
        };
        let other = " acct_account_cputime+0x66/0x170";
        assert!(!report(&[other]));
        for frame in [
            " vfio_device_open+0x6/0x17 [vfio]",
            " f+0x1/0x2 [vfio_iommu_type1]",
            " g+0x1/0x2 [mdma]",
        ] {
            assert!(report(&[other, frame]), "{frame}");
            // The scheduler is not the module's because the module has woken a thread.
            assert!(!report(&[other, other, other, other, frame]), "{frame}");
        }
        assert!(report(&[
            other,
            "",
            "write to 0x1 of 2 bytes by interrupt on cpu 0:",
            " h [mdma]"
        ]));
    }
}
