//! What the kernel says of this process, read when somebody asks.

use super::{Metrics, names};

/// Writes the metrics of this process and of this build.
pub fn observe(metrics: &Metrics, ready: bool) {
    metrics.gauge(&names::BUILD_INFO, &[env!("CARGO_PKG_VERSION")]).set(1.0);
    metrics.gauge(&names::READY, &[]).set(if ready { 1.0 } else { 0.0 });
    metrics.gauge(&names::CPU_SECONDS, &[]).set(cpu_seconds());
    if let Some(bytes) = resident_bytes() {
        metrics.gauge(&names::RESIDENT_BYTES, &[]).set(bytes);
    }
    if let Some(count) = open_fds() {
        metrics.gauge(&names::OPEN_FDS, &[]).set(count);
    }
}

fn cpu_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib as f64 * 1024.0)
}

/// The directory itself is open while it is read and does not count.
fn open_fds() -> Option<f64> {
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(count.saturating_sub(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_all_of_them() {
        let metrics = Metrics::new();
        observe(&metrics, true);
        let text = metrics.render();
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
            let line = line.unwrap_or_else(|| panic!("{name} is not in {text}"));
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_cpu_seconds_total") > 0.0);
        assert!(value("process_open_fds") >= 3.0);
        assert!((value("pillion_ready") - 1.0).abs() < f64::EPSILON);
        observe(&metrics, false);
        assert!(metrics.render().contains("\npillion_ready 0\n"));
    }
}
