//! Google's services as servers on loopback. The gateway's own clients and Google's command line
//! tools talk to the same ones.

pub mod bigquery;
pub mod cloud_run;
pub mod metadata;
pub mod secret_manager;
