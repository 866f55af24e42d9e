//! What a process costs, from `/proc`.

use std::fs;

/// Clock ticks of a second in `/proc`, which Linux fixes for programs.
const TICKS: f64 = 100.0;

/// Resident memory in KiB.
pub(crate) fn rss_kib(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Seconds of user and system time.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = text.rsplit_once(") ").unwrap();
    let fields: Vec<f64> = fields
        .split(' ')
        .map(|word| word.parse().unwrap_or(0.0))
        .collect();
    (fields[11] + fields[12]) / TICKS
}
