//! The `sluicegate` program; see the library for everything it does.

fn main() -> std::process::ExitCode {
    sluicegate::cli::run()
}
