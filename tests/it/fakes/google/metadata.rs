//! The metadata server: project, region, access tokens and ID tokens.
