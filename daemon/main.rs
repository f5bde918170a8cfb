//! `rakit-daemon`: the load monitor on each server. The code is in [`rakit::daemon`].
fn main() -> std::process::ExitCode {
    rakit::program::end(rakit::daemon::main(std::env::args_os()))
}
