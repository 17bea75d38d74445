//! Log lines: Cloud Logging's fields as JSON, or text for a terminal, on standard output.

/// Placeholder of this branch: the log part brings the real one.
pub fn usage_line(_usage_json: &str) {}
