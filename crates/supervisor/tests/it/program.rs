//! The program that the tests start as a shim.

fn main() -> std::process::ExitCode {
    supervisor::shim::main()
}
