//! Log lines: Cloud Logging's fields as JSON, or text for a terminal, on standard output.
