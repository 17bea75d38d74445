//! The executable: installs what is global to a process, runs the command line, and turns a failure
//! into one message and an exit code. The only place that ends the process.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before any client is built: the HTTP client is compiled without a default provider. An error
    // means that one is installed already, which is as good.
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match tollgate::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(tollgate::cli::report(&failure)),
    }
}
