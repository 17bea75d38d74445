//! Secrets and their versions, as Secret Manager answers over REST.
