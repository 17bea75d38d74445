//! Connections that misbehave below the level of calls: what is no HTTP, too slow, too long or cut.
