//! `rakit-node`: one node of the load balancer. All of it is in [`rakit::node`].
fn main() -> std::process::ExitCode {
    rakit::program::end(rakit::node::main(std::env::args_os()))
}
