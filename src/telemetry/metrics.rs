//! The metrics of one sidecar: the `metrics` facade over its Prometheus
//! exporter, as a value and not as a global, so that several sidecars can live
//! in one process.
//!
//! Handles are resolved when a route, an upstream or a task is built, never by
//! name on the path of a request.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::names::{self, Kind, Name};
use crate::config::reload::Meters;

/// Cheap to clone; all clones count into the same registry.
#[derive(Clone)]
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    labels: Arc<Mutex<HashSet<String>>>,
    panics: Arc<AtomicU64>,
}

/// Values that a label may take that callers choose, such as an upstream's name.
pub const MAX_LABELS: usize = 512;

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty registry that knows every name in [`names::ALL`].
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&names::DURATION_BUCKETS)
            .unwrap_or_else(|_| PrometheusBuilder::new())
            .build_recorder();
        for name in names::ALL {
            let (key, help) = (name.name.into(), name.help.into());
            match name.kind {
                Kind::Counter => recorder.describe_counter(key, None, help),
                Kind::Gauge => recorder.describe_gauge(key, None, help),
                Kind::Histogram => recorder.describe_histogram(key, None, help),
            }
        }
        let handle = recorder.handle();
        Self { recorder: Arc::new(recorder), handle, labels: Arc::default(), panics: Arc::default() }
    }

    /// A counter. `values` are those of the name's labels, in order.
    pub fn counter(&self, name: &Name, values: &[&str]) -> Counter {
        self.recorder.register_counter(&key(name, Kind::Counter, values), &METADATA)
    }

    /// A gauge. `values` are those of the name's labels, in order.
    pub fn gauge(&self, name: &Name, values: &[&str]) -> Gauge {
        self.recorder.register_gauge(&key(name, Kind::Gauge, values), &METADATA)
    }

    /// A histogram of seconds. `values` are those of the name's labels, in order.
    pub fn histogram(&self, name: &Name, values: &[&str]) -> Histogram {
        self.recorder.register_histogram(&key(name, Kind::Histogram, values), &METADATA)
    }

    /// Where reloads of the configuration are counted.
    pub fn reload(&self) -> Meters {
        Meters {
            applied: self.counter(&names::CONFIG_RELOADS, &["applied"]),
            unchanged: self.counter(&names::CONFIG_RELOADS, &["unchanged"]),
            rejected: self.counter(&names::CONFIG_RELOADS, &["rejected"]),
            refused: self.gauge(&names::CONFIG_REJECTED, &[]),
        }
    }

    /// `value` as a label whose values come from outside: itself while there
    /// are at most [`MAX_LABELS`] different ones, then `_other`.
    pub fn label(&self, value: &str) -> String {
        let mut labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        if labels.len() < MAX_LABELS || labels.contains(value) {
            labels.insert(value.to_owned());
            value.to_owned()
        } else {
            "_other".to_owned()
        }
    }

    /// A request panicked. Release builds abort instead.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that have panicked.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// The exposition in Prometheus' text form.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds recorded values into their buckets. Must be called every second or
    /// so: until then each value is kept.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

const METADATA: Metadata<'static> = Metadata::new("pillion", Level::INFO, None);

fn key(name: &Name, kind: Kind, values: &[&str]) -> Key {
    debug_assert_eq!(name.kind, kind, "{}", name.name);
    debug_assert_eq!(name.labels.len(), values.len(), "{}", name.name);
    let labels: Vec<Label> = name
        .labels
        .iter()
        .zip(values)
        .map(|(label, value)| Label::new(*label, (*value).to_owned()))
        .collect();
    Key::from_parts(name.name, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_rendered_with_its_labels_and_help() {
        let metrics = Metrics::new();
        metrics.counter(&names::LIMITED, &["header_bytes"]).increment(2);
        metrics.histogram(&names::SERVER_DURATION, &["GET", "/x", "200", ""]).record(0.003);
        let text = metrics.render();
        assert!(text.contains("# HELP pillion_limited_total Times"), "{text}");
        assert!(text.contains("pillion_limited_total{limit=\"header_bytes\"} 2"), "{text}");
        assert!(text.contains("http_route=\"/x\"") && text.contains("le=\"0.005\"} 1"), "{text}");
    }
}
