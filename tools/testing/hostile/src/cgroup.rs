// SPDX-License-Identifier: GPL-2.0

//! A control group with limits (cgroup v2).

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const ROOT: &str = "/sys/fs/cgroup";
/// Timeout of operations that must succeed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A control group below the root, with the memory, cpu and pids controllers. Drop kills its processes and removes it.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Creates one without limits.
    pub fn new() -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        fs::write(
            format!("{ROOT}/cgroup.subtree_control"),
            "+memory +cpu +pids",
        )?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("{ROOT}/test-{}-{number}", std::process::id()));
        fs::create_dir(&path)?;
        let cgroup = Cgroup(path);
        // memory.current does not include swapped memory.
        cgroup.set_if_there("memory.swap.max", "0")?;
        Ok(cgroup)
    }

    /// Lists the control groups that a process has created and left behind.
    pub fn left_by(pid: u32) -> io::Result<Vec<Self>> {
        let prefix = format!("test-{pid}-");
        let mut groups = Vec::new();
        for entry in fs::read_dir(ROOT)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                groups.push(Cgroup(entry.path()));
            }
        }
        Ok(groups)
    }

    /// Returns the name of its directory.
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }

    /// Writes one of its files.
    pub fn set(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.0.join(file), value)
            .map_err(|e| io::Error::new(e.kind(), format!("{file} ← {value}: {e}")))
    }

    fn set_if_there(&self, file: &str, value: &str) -> io::Result<()> {
        match self.0.join(file).exists() {
            true => self.set(file, value),
            false => Ok(()),
        }
    }

    /// Reads one of its files.
    pub fn get(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.0.join(file))
            .map_err(|e| io::Error::new(e.kind(), format!("{file}: {e}")))
    }

    /// Returns the number after `key` in one of its files, such as `memory.events` or `cpu.stat`.
    pub fn count(&self, file: &str, key: &str) -> io::Result<u64> {
        let text = self.get(file)?;
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let found = lines.find(|(name, _)| *name == key);
        found
            .and_then(|(_, value)| value.trim().parse().ok())
            .ok_or_else(|| io::Error::other(format!("{file} has no number {key}")))
    }

    /// Sets `memory.max` in bytes; `None` for no limit.
    pub fn set_memory_max(&self, bytes: Option<u64>) -> io::Result<()> {
        self.set("memory.max", &limit(bytes))
    }

    /// Sets `cpu.max` to a percentage of one processor; `None` for no limit.
    pub fn set_cpu_max(&self, percent: Option<u64>) -> io::Result<()> {
        let quota = limit(percent.map(|percent| percent * 1000));
        self.set("cpu.max", &format!("{quota} 100000"))
    }

    /// Sets `pids.max`; `None` for no limit.
    pub fn set_pids_max(&self, tasks: Option<u64>) -> io::Result<()> {
        self.set("pids.max", &limit(tasks))
    }

    /// Moves a process into it.
    pub fn add(&self, pid: u32) -> io::Result<()> {
        self.set("cgroup.procs", &pid.to_string())
    }

    /// Returns `memory.current` in bytes.
    pub fn memory(&self) -> io::Result<u64> {
        let text = self.get("memory.current")?;
        text.trim().parse().map_err(io::Error::other)
    }

    /// Returns `memory.current` after a reclaim of caches and per-CPU charges.
    pub fn settled_memory(&self) -> io::Result<u64> {
        // Lowering this limit drains both and kills nobody.
        self.set("memory.high", "0")?;
        self.set("memory.high", "max")?;
        self.memory()
    }

    /// Returns the processor time used.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        self.count("cpu.stat", "usage_usec")
            .map(Duration::from_micros)
    }

    /// Requests that all its tasks freeze or thaw. Does not wait.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        self.set("cgroup.freeze", if frozen { "1" } else { "0" })
    }

    /// Waits until all its tasks are frozen.
    pub fn wait_frozen(&self) -> io::Result<()> {
        self.wait_event("frozen", 1)
    }

    /// Kills all its processes.
    pub fn kill(&self) -> io::Result<()> {
        self.set("cgroup.kill", "1")
    }

    /// Waits until it is empty.
    pub fn wait_empty(&self) -> io::Result<()> {
        self.wait_event("populated", 0)
    }

    /// Returns the thread IDs in it.
    pub fn threads(&self) -> io::Result<Vec<u32>> {
        let text = self.get("cgroup.threads")?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    fn wait_event(&self, key: &str, value: u64) -> io::Result<()> {
        let start = Instant::now();
        while self.count("cgroup.events", key)? != value {
            if start.elapsed() > PATIENCE {
                return Err(io::Error::other(format!(
                    "waited {} s for {key} {value} of {}, which has tasks {:?}",
                    PATIENCE.as_secs(),
                    self.0.display(),
                    self.threads()
                )));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = self.freeze(false);
        let _ = self.kill();
        let _ = self.wait_empty();
        // A task that has just exited may still be counted.
        for _ in 0..1000 {
            match fs::remove_dir(&self.0) {
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
                _ => break,
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn limit(value: Option<u64>) -> String {
    value.map_or("max".into(), |value| value.to_string())
}
