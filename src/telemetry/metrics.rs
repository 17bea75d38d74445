//! The metrics registry, by Prometheus' conventions.
