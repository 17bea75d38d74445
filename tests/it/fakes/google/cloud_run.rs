//! Cloud Run's own API, as far as a validation of a service file needs it.
